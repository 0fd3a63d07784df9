"""A full run in short, in Markdown: who is how fast, what became of requests in faults, what speaks against trapeze.

Pure. All of it comes from reports; the rules are those of the report itself: a difference that may be chance is "same",
and the first line below a table says where trapeze is slower, or has lost something.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from trapeze_bench.compare import Comparison, Spread, spread
from trapeze_bench.findings import at, counterpart, headline, ranked, reference, versus
from trapeze_bench.results import Machine, Report, Standing, Study
from trapeze_bench.words import listed, rate, ratio, several, span

__all__ = ["Faults", "Pace", "facts", "fault", "faults", "paces", "section", "shown_at", "studied"]

OURS = "trapeze"
LOST = ("lost", "failed", "no answer")
"""Columns of scenarios that begin like this count requests that were not answered."""
FOLDER = "bench/results"
NOTE = "<!-- Written by bench/publish.py from the *.json beside it; do not edit. -->"
WHAT = (
    "A full run from one machine: `make bench` repeats it, in the same files. Each part is one `trapeze bench`: its "
    "report is there as JSON ([every field](../../docs/reference/bench.md)) and as a page for a browser."
)
LEGEND = (
    "Load: the load average when the whole run began; later in it, it is the bench's own. A commit with + had changes. "
    "Of timelines with many requests only some are kept here, and all that were lost."
)


class Pace(NamedTuple):
    """A contestant of a study, as summaries show it."""

    name: str
    ours: bool
    """Under trapeze; else it is the reference."""
    rates: Spread
    """Requests per second."""
    values: Sequence[float]
    """Of each round."""
    of_reference: Comparison | None
    native: str
    """The same server by itself; "" if that was not measured."""
    of_native: Comparison | None
    native_of_reference: Comparison | None


class Faults(NamedTuple):
    """Who lost what in which situation."""

    scenarios: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Standing | None]]]
    """Contestant -> its standing in each of them; None: it did not take part."""


def shown_at(study: Study) -> int:
    """The number of connections that summaries show: the greatest."""
    return max(study.connections)


def paces(study: Study) -> list[Pace]:
    """Those under trapeze and the reference, the fastest first, as far as they were measured."""
    connections, base = shown_at(study), reference(study)
    found = []
    for each in ranked(study):
        run = at(each, connections)
        if run is None or (each.role != "trapeze" and each is not base):
            continue
        native = counterpart(study, each)
        found.append(
            Pace(
                each.name,
                each.role == "trapeze",
                spread(run.rates),
                run.rates,
                None if each is base else versus(each, base, connections),
                native.name if native else "",
                versus(each, native, connections),
                versus(native, base, connections) if native else None,
            )
        )
    return sorted(found, key=lambda each: -each.rates.median)


def faults(reports: Iterable[Report]) -> Faults:
    """Of all scenarios in which something can be done wrong."""
    judged = [
        found for report in reports for found in report.scenarios if any(_judged(each) for each in found.standings)
    ]
    names = list(dict.fromkeys(each.name for found in judged for each in found.standings if not each.missing))
    rows = []
    for name in names:
        rows.append((name, [next((each for each in found.standings if each.name == name), None) for found in judged]))
    return Faults([found.name for found in judged], rows)


def _judged(standing: Standing) -> bool:
    return standing.good is not None


def fault(standing: Standing | None) -> str:
    """A cell: how many requests were lost, and what else was not as it should be; "ok" if there is nothing to say."""
    if standing is None or standing.missing:
        return "-"
    if standing.good is None:
        return standing.verdict or "-"
    lost = sum(
        value for name, value in standing.cells.items() if name.startswith(LOST) and isinstance(value, int)
    )  # fmt: skip
    parts = [part for part in standing.verdict.split(", ") if part != "ok" and not part.endswith((" lost", " failed"))]
    return ", ".join([*([f"{lost:,} lost"] if lost else []), *parts]) or "ok"


def studied(study: Study) -> str:
    """What was measured, in a line."""
    asked = f"{several(study.workers, 'worker')}, {several(shown_at(study), 'connection')}"
    return f"{asked}, {several(study.rounds, 'round')} of {study.seconds:g} s"


# -- the section of the README ----------------------------------------------------------------------------------------


def section(reports: Mapping[str, Report]) -> str:
    """Picture, tables, and below each what speaks against trapeze; "" if nothing was measured."""
    if not reports:
        return ""
    parts = [
        f"![Requests per second beside plain gunicorn, and what became of requests in faults]({FOLDER}/summary.svg)"
    ]
    for report in reports.values():
        if report.study is not None:
            parts += _study(report, report.study)
    parts += _faults([report for report in reports.values() if report.scenarios])
    parts.append(_where(list(reports.values())))
    return "\n\n".join(parts) + "\n"


def _study(report: Report, study: Study) -> Iterator[str]:
    base = reference(study)
    head = f"{study.interface.upper()}, hello world" if ".hello:" in study.app else f"{study.app} ({study.interface})"
    yield f"**{head}**: {studied(study)}, contestants in turn; the median of the rounds, the least and the greatest."
    rows = [_pace(each) for each in paces(study)]
    name = base.name if base else "the reference"
    yield _table(
        ["", "requests/s", "rounds", f"of {name}", "of itself without trapeze"], rows, ":---|---:|---:|---:|---:"
    )
    yield from _against(report, "Where trapeze is slower, or fails", "Nowhere in this table is trapeze clearly slower")


def _pace(found: Pace) -> list[str]:
    beside = "1" if not found.ours else _ratio(found.of_reference)
    return [found.name, rate(found.rates.median), span(found.values), beside, _ratio(found.of_native)]


def _ratio(found: Comparison | None) -> str:
    if found is None:
        return ""
    return "same" if found.verdict == "same" else f"{ratio(found.ratio)} x"


def _faults(reports: Sequence[Report]) -> Iterator[str]:
    found = faults(reports)
    if not found.rows:
        return
    yield (
        "**What becomes of requests** in a reload, a broken deploy, a crash: ✓ as it should be, ✕ not. What is done, "
        "and what counts, is told in [bench/README.md](bench/README.md#scenarios)."
    )
    rows = [[name, *(_cell(each) for each in standings)] for name, standings in found.rows]
    yield _table(["", *found.scenarios], rows, ":---" + "|:---" * len(found.scenarios))
    yield from _together(reports)


def _cell(standing: Standing | None) -> str:
    mark = {True: "✓ ", False: "✕ ", None: ""}[standing.good if standing else None]
    return f"{mark}{fault(standing)}"


def _together(reports: Sequence[Report]) -> Iterator[str]:
    lines = [line.text for report in reports for line in headline(report) if line.kind == "bad"]
    unknown = list(_unknown(reports))
    if lines:
        yield _list("Where trapeze loses something", lines)
    elif not unknown:
        yield "In none of these trapeze did anything that it should not."
    if unknown:
        yield f"Could not be measured: {listed(unknown, 9)}."
    missing = {each.name: each.missing for report in reports for one in report.scenarios for each in one.standings}
    names = [f"{name} (`{line}`)" for name, line in missing.items() if line]
    if names:
        yield f"Not installed, and not run: {listed(names, 9)}."


def _unknown(reports: Sequence[Report]) -> Iterator[str]:
    """Of trapeze, what has no verdict where others have one: nobody knows whether it would have been a good one."""
    found = faults(reports)
    for name, standings in found.rows:
        for scenario, standing in zip(found.scenarios, standings, strict=True):
            if name.startswith(OURS) and standing is not None and not _judged(standing):
                yield f"{name} in {scenario}"


def _against(report: Report, head: str, nothing: str) -> Iterator[str]:
    """What has to be known first; trapeze's own losses before anything else."""
    lines = headline(report)
    bad = [line.text for line in lines if line.kind == "bad"]
    if bad:
        yield _list(head, bad)
    else:
        yield f"{nothing} than the same server by itself, and it answered every request."
    notes = [line.text for line in lines if line.kind == "note"]
    others = [each for each in report.study.results if each.role != OURS] if report.study else []
    notes += [f"{each.name} could not be measured: {each.failed}" for each in others if each.failed]
    if notes:
        yield _list("What makes it less sure", notes)


def _list(head: str, lines: Sequence[str]) -> str:
    return "\n".join([f"{head}:", "", *(f"- {line}" for line in lines)])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], rule: str) -> str:
    lines = [" | ".join(each) for each in (head, *([_escaped(cell) for cell in row] for row in rows))]
    return "\n".join([f"| {lines[0]} |", f"|{rule}|", *(f"| {line} |" for line in lines[1:])])


def _escaped(cell: str) -> str:
    return cell.replace("<", "&lt;").replace("|", "\\|")


def _where(reports: Sequence[Report]) -> str:
    machines = list(dict.fromkeys(_machine(report.machine) for report in reports))
    days = sorted({report.began[:10] for report in reports})
    commits = list(dict.fromkeys(report.machine.commit or "unknown" for report in reports))
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    words = f"Measured on {listed(machines, 9)}, {when}, commit {listed(commits, 9)}"
    return f"{words}. Every number, versions and command lines: [{FOLDER}]({FOLDER}/README.md)."


def _machine(machine: Machine) -> str:
    return f"{machine.processor}, {several(machine.cores, 'core')}"


# -- bench/results/README.md ------------------------------------------------------------------------------------------


def facts(reports: Mapping[str, Report]) -> str:
    """What the files beside it are, and where and with what they were measured."""
    lines = ["# Results", "", NOTE, ""]
    if not reports:
        return "\n".join([*lines, "Nothing was measured yet: `make bench` does it, and writes what it found here.", ""])
    lines += [WHAT, ""]
    rows = [_file(part, report) for part, report in reports.items()]
    table = _table(["part", "report", "begun (UTC)", "commit", "load"], rows, "---|---|---|---|---:")
    return "\n".join([*lines, table, "", LEGEND, "", "![Summary](summary.svg)", "", *_machines(reports)])


def _file(part: str, report: Report) -> list[str]:
    study = report.study
    what = f"{study.interface.upper()}, hello world: {studied(study)}" if study else part
    if study is None and report.scenarios:
        what = f"{part}: {report.scenarios[0].question}"
    links = f"[{part}.json]({part}.json), [{part}.html]({part}.html)"
    began = report.began.replace("T", " ").removesuffix("Z")
    return [what, links, began, report.machine.commit or "", f"{report.machine.load:.1f}"]


def _machines(reports: Mapping[str, Report]) -> Iterator[str]:
    """The machine, its software; each once, where it was the same in all parts."""
    found: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for part, report in reports.items():
        found.setdefault(tuple(_software(report)), []).append(part)
    merged: dict[str, dict[str, list[str]]] = {}
    for pairs, parts in found.items():
        for name, value in pairs:
            merged.setdefault(name, {}).setdefault(value, []).extend(parts)
    yield "| | |\n|---|---|"
    for name, values in merged.items():
        yield f"| {name} | {_values(values)} |"
    yield ""


def _values(values: Mapping[str, Sequence[str]]) -> str:
    if len(values) == 1:
        return _escaped(next(iter(values)))
    return "; ".join(f"{_escaped(value)} ({', '.join(parts)})" for value, parts in values.items())


def _software(report: Report) -> Iterator[tuple[str, str]]:
    machine, made = report.machine, report.generator
    yield "processor", machine.processor
    yield "cores", str(machine.cores)
    yield "memory", f"{machine.memory:,} MiB"
    yield "kernel", f"Linux {machine.kernel}{', autogroup on' if machine.autogroup else ''}"
    yield "Python", machine.python
    yield from machine.versions.items()
    if made is not None:
        limit = f", at most {rate(made.ceiling)}/s ({made.against})" if made.ceiling else ""
        yield "generator", f"{made.name} {made.version}{limit}"
