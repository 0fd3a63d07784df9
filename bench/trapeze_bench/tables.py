"""The report for a terminal: first what has to be known, then narrow tables, then how it was measured. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence

from trapeze_bench.advice import advise, surroundings
from trapeze_bench.compare import Comparison
from trapeze_bench.findings import at, errors, headline, paired, ranked, reference, tail, versus
from trapeze_bench.grid import Column, bar, grid, wrapped
from trapeze_bench.results import Report, Result, Scenario, Standing, Study
from trapeze_bench.words import NONE, cell, counts, median, milliseconds, number, rate, ratio, seconds, several, span

__all__ = ["PARTS", "render", "scenario"]

PARTS = ("p50", "p90", "p99", "p99.9", "max")
MARKS = {"bad": "! ", "good": "+ ", "note": "- "}
HEAD = 9
"""Characters in a line of a heading, where it has several words."""
SENTENCE = 40
"""Characters of a cell, above which a column is no column: it has its lines below the table."""
LEAST_BAR = 8
"""Cells: shorter bars say nothing."""
Results = Sequence[Result]
Times = Mapping[str, list[float]]


def render(report: Report, width: int) -> str:
    """All of it, in lines of `width` characters where that is possible at all: names and numbers are never cut."""
    parts = ["\n".join(wrapped(line.text, width, MARKS[line.kind]) for line in headline(report))]
    if report.study is not None:
        parts += _study(report.study, width)
    parts += [scenario(each, width) for each in report.scenarios]
    if report.study is not None:
        parts.append(_advice(report, report.study, width))
    parts.append(_method(report, width))
    return "\n\n".join(part for part in parts if part) + "\n"


def _study(study: Study, width: int) -> Iterator[str]:
    measured = ranked(study)
    for connections in study.connections:
        found = [each for each in measured if at(each, connections)]
        if found:
            yield _rates(study, found, connections, width)
            yield _latencies(found, connections, width)
    if found := [each for each in measured if each.fixed and each.fixed.latencies]:
        yield _fixed(found, width)
    if measured:
        yield _costs(measured, width)
    if pairs := paired(study):
        yield _overhead(study, pairs, width)
    if found := [each for each in study.results if each.failed or errors(each)]:
        yield "\n".join(["Errors", *(wrapped(_trouble(each), width, "  ") for each in found)])


def _trouble(result: Result) -> str:
    return f"{result.name}: {'; '.join(filter(None, [result.failed, counts(errors(result))]))}"


def _names(results: Results) -> Column:
    return Column("", [each.name for each in results], left=True)


def _rates(study: Study, results: Results, connections: int, width: int) -> str:
    base = reference(study)
    runs = [run for each in results if (run := at(each, connections))]
    middles = [median(run.rates) or 0.0 for run in runs]
    names = _names(results)
    columns = [
        Column("median", [rate(middle) for middle in middles]),
        Column("least-greatest", [span(run.rates) for run in runs]),
        Column("of ref.", [_beside(each, base, connections) for each in results]),
    ]
    room = width - names.width - sum(2 + column.width for column in columns) - 2
    if room >= LEAST_BAR:
        columns.append(Column("", [bar(middle, max(middles), min(room, 30)) for middle in middles], left=True))
    title = f"Requests per second, {several(connections, 'connection')}"
    note = f", ref.: {base.name}" if base else ""
    return f"{title}{note}\n{grid(names, columns, width)}"


def _beside(result: Result, base: Result | None, connections: int) -> str:
    found = versus(result, base, connections)
    if result is base or found is None:
        return "ref." if result is base else NONE
    return "same" if found.verdict == "same" else ratio(found.ratio)


def _times(latencies: Sequence[Times]) -> list[Column]:
    return [
        Column(part, [milliseconds(median(each.get(part, []))) for each in latencies])
        for part in PARTS
        if any(part in each for each in latencies)
    ]


def _latencies(results: Results, connections: int, width: int) -> str:
    runs = [run for each in results if (run := at(each, connections))]
    columns = _times([run.latencies for run in runs])
    columns.append(Column("errors", [cell(sum(run.errors.values())) for run in runs]))
    title = f"Milliseconds to the answer, {several(connections, 'connection')} (closed loop)"
    return f"{title}\n{grid(_names(results), columns, width)}"


def _fixed(results: Results, width: int) -> str:
    found = [each.fixed for each in results if each.fixed]
    rates = {each.rate for each in found}
    columns = _times([each.latencies for each in found])
    columns.append(Column("lost", [cell(sum(each.lost.values())) for each in found]))
    if len(rates) > 1:
        columns.insert(0, Column("due/s", [rate(each.rate) for each in found]))
    if any(each.saturated for each in found):
        columns.append(Column("", ["cannot keep up" if each.saturated else "" for each in found], left=True))
    due = f"{rate(rates.pop())} requests/s" if len(rates) == 1 else "a fixed rate"
    title = f"Milliseconds to the answer at {due}, timed from when each request was due"
    return f"{wrapped(title, width)}\n{grid(_names(results), columns, width)}"


def _costs(results: Results, width: int) -> str:
    def column(head: str, values: Callable[[Result], list[float]], show: Callable[[float | None], str]) -> Column:
        return Column(head, [show(median(values(each))) for each in results])

    columns = [
        column("CPU\nworkers", lambda each: each.cpu_workers, seconds),
        column("CPU\nsup.", lambda each: each.cpu_supervisor, seconds),
        column("PSS\nworkers", lambda each: each.pss_workers, lambda value: number(value, 2)),
        column("PSS\nsup.", lambda each: each.pss_supervisor, lambda value: number(value, 2)),
        column("\nbalance", lambda each: each.balance, ratio),
        column("\nstart", lambda each: each.starts, ratio),
    ]
    title = (
        "What it takes: processor seconds per 1,000 requests and MiB of memory (PSS) after the load, in the workers "
        "and in the supervisor; balance (the busiest worker, of the mean of all); seconds from exec to the first answer"
    )
    return f"{wrapped(title, width)}\n{grid(_names(results), columns, width)}"


def _verdict(found: Comparison | None) -> str:
    return NONE if found is None else f"{ratio(found.ratio)} {found.verdict}"


def _overhead(study: Study, pairs: Sequence[tuple[Result, Result]], width: int) -> str:
    columns = [
        Column(f"requests/s\n{at_once} conn.", [_verdict(versus(*pair, at_once)) for pair in pairs])
        for at_once in study.connections
    ]
    if any(tail(*pair) for pair in pairs):
        columns.append(Column("p99\nfixed rate", [_verdict(tail(*pair)) for pair in pairs]))
    columns.append(Column("\nprocessor", [_of(_cpu(one), _cpu(other)) for one, other in pairs]))
    columns.append(Column("\nmemory", [_of(_pss(one), _pss(other)) for one, other in pairs]))
    columns.append(Column("\nstart", [_of(one.starts, other.starts) for one, other in pairs]))
    names = Column("", [f"{one.name.partition('+')[2]}" for one, _ in pairs], left=True)
    title = "What trapeze costs: under trapeze, of the same server run by itself (1 is no difference)"
    return f"{wrapped(title, width)}\n{grid(names, columns, width)}"


def _cpu(result: Result) -> list[float]:
    return _sums(result.cpu_workers, result.cpu_supervisor)


def _pss(result: Result) -> list[float]:
    return _sums(result.pss_workers, result.pss_supervisor)


def _sums(workers: list[float], supervisor: list[float]) -> list[float]:
    return [one + other for one, other in zip(workers, supervisor, strict=False)] or workers


def _of(one: list[float], other: list[float]) -> str:
    ours, its = median(one), median(other)
    return ratio(ours / its) if ours is not None and its else NONE


# -- scenarios --------------------------------------------------------------------------------------------------------


def scenario(found: Scenario, width: int) -> str:
    """One of them: the question, the table, the notes, what was not run."""
    ran = [each for each in found.standings if not each.missing]
    wordy = [name for name in found.columns if any(len(cell(each.cells.get(name))) > SENTENCE for each in ran)]
    lines = [wrapped(f"{found.name}: {found.question}", width)]
    if ran:
        columns = [Column("", [_judged(each) for each in ran], left=True)]
        for name, unit in found.columns.items():
            if name in wordy:
                continue
            head = "\n".join([*textwrap.wrap(name, HEAD, break_long_words=False), unit])
            columns.append(Column(head, [cell(each.cells.get(name)) for each in ran]))
        lines.append(grid(Column("", [each.name for each in ran], left=True), columns, width))
    for name in wordy:
        said = [(each.name, cell(each.cells[name])) for each in ran if each.cells.get(name)]
        lines += [wrapped(f"{who}, {name}: {words}", width, "  ") for who, words in said]
    lines += [wrapped(f"{each.name}: {each.note}", width, "  ") for each in ran if each.note]
    lines += [
        wrapped(f"{each.name}: not installed: {each.missing}", width, "  ") for each in found.standings if each.missing
    ]
    if not found.finished:
        lines.append("  interrupted")
    return "\n".join(lines)


def _judged(standing: Standing) -> str:
    if standing.good is None:
        return standing.verdict
    said = "" if standing.verdict == "ok" else standing.verdict
    return ": ".join(filter(None, ["ok" if standing.good else "NO", said]))


# -- the end ----------------------------------------------------------------------------------------------------------


def _advice(report: Report, study: Study, width: int) -> str:
    found = advise(study, surroundings(report))
    lines = ["Recommended", wrapped(found.words, width, "  ")]
    lines += [f"\n  {found.command}\n"] if found.command else []
    lines += [wrapped(reason, width, "  - ") for reason in found.reasons]
    lines += ["  It would be another one"] if found.changes else []
    lines += [wrapped(change, width, "  - ") for change in found.changes]
    return "\n".join(lines)


def _method(report: Report, width: int) -> str:
    machine = report.machine
    lines = ["How it was measured"]
    study = report.study
    if study is not None:
        through = f", through {study.through}" if study.through else ""
        lines.append(
            wrapped(
                f"{study.app} ({study.interface}), {several(study.workers, 'worker')}{through}; "
                f"{several(study.rounds, 'round')} of {study.seconds:g} s, contestants in turn; "
                f"asked for: {', '.join(study.requests)}",
                width,
                "  ",
            )
        )
    if report.generator is not None:
        made = report.generator
        against = f" ({made.against})" if made.against else ""
        limit = f", at most {rate(made.ceiling)}/s here{against}" if made.ceiling else ", its limit was not measured"
        lines.append(wrapped(f"load by {' '.join(filter(None, [made.name, made.version]))}{limit}", width, "  "))
    hardware = f"{machine.processor}, {several(machine.cores, 'core')}, {machine.memory:,} MiB, Linux {machine.kernel}"
    lines.append(wrapped(f"{hardware}, Python {machine.python}, load {machine.load:.1f} at the beginning", width, "  "))
    if machine.autogroup:
        words = "autogroup on: the scheduler shares the processors out between sessions first"
        lines.append(wrapped(words, width, "  "))
    commit = [f"commit {machine.commit}"] if machine.commit else []
    versions = [f"{name} {version}" for name, version in machine.versions.items()]
    lines.append(wrapped(", ".join([*versions, *commit, f"begun {report.began}"]), width, "  "))
    if study is not None:
        lines += _commands(study, width)
    return "\n".join(lines)


def _commands(study: Study, width: int) -> Iterator[str]:
    for each in study.results:
        if each.command:
            yield wrapped(f"{each.name}: {' '.join(each.command)}", width, "  ", hang=4)
