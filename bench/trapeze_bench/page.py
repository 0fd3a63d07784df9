"""The report as one HTML page that needs nothing else: no script, no font, no picture from anywhere. Pure.

What stands in it is in the same order as in the terminal: what has to be known first, the advice, the numbers, how they
were measured. Each chart has its numbers in a table.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files

from trapeze_bench.advice import Advice, advise, surroundings
from trapeze_bench.charts import SYMBOLS
from trapeze_bench.findings import Line, headline
from trapeze_bench.markup import Markup, join, raw, table, tag
from trapeze_bench.panels import study_sections
from trapeze_bench.results import Report, Scenario, Standing, Study
from trapeze_bench.timelines import frame, timeline
from trapeze_bench.words import cell, rate, several

__all__ = ["page"]

MARKS = {"bad": "✕", "good": "✓", "note": "–"}
SPOKEN = {"bad": "Bad: ", "good": "Good: ", "note": "Note: "}
"""For those who do not see the marks."""
LEVELS = ("low", "medium", "high")


def page(report: Report) -> str:
    """The whole page."""
    study = report.study
    name = study.app if study else ", ".join(each.name for each in report.scenarios) or "nothing measured"
    parts = [SYMBOLS, _header(report, name), _first(report)]
    if study is not None:
        parts.append(_advice(advise(study, surroundings(report))))
        parts += study_sections(study)
    parts += [_scenario(each) for each in report.scenarios]
    parts.append(_method(report))
    style = files("trapeze_bench").joinpath("page.css").read_text()
    head = join(
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"trapeze bench: {name}"),
        tag("style", raw(style)),
    )
    return "<!doctype html>\n" + tag("html", tag("head", head), tag("body", tag("main", *parts)), lang="en") + "\n"


def _header(report: Report, name: str) -> Markup:
    said = [report.began.replace("T", " ").replace("Z", " UTC"), report.machine.processor]
    said.append(several(report.machine.cores, "core"))
    if report.study is not None:
        said.append(several(report.study.workers, "worker"))
        said.append(f"{several(report.study.rounds, 'round')} of {report.study.seconds:g} s")
    kicker = tag("p", "trapeze bench", class_="kicker")
    return tag("header", kicker, tag("h1", name), tag("p", " · ".join(said)))


def _first(report: Report) -> Markup:
    lines = headline(report)
    items = [tag("li", _marked(line), class_=line.kind, data_mark=MARKS[line.kind]) for line in lines]
    return tag("ul", *items, class_="first", aria_label="What to know first") if items else Markup()


def _marked(line: Line) -> Markup:
    return tag("span", tag("span", SPOKEN[line.kind], class_="unseen"), line.text)


def _advice(found: Advice) -> Markup:
    level = LEVELS.index(found.sure) + 1
    bars = [tag("i", class_="on" if at < level else None) for at in range(len(LEVELS))]
    sure = tag("span", *bars, class_="sure", role="img", aria_label=f"{level} of {len(LEVELS)}")
    answer = f"{found.backend}, {several(found.workers, 'worker')}" if found.backend else "Nothing"
    if found.threads:
        answer += f", {several(found.threads, 'thread')} each"
    lists = [
        tag("div", tag("h3", title), tag("ul", *(tag("li", each) for each in words)))
        for title, words in (("Why", found.reasons), ("What would change it", found.changes))
        if words
    ]
    return tag(
        "section",
        tag("h2", "Recommended"),
        tag("p", answer, class_="answer"),
        tag("p", sure, found.certainty),
        tag("code", found.command, class_="command") if found.command else "",
        tag("div", *lists, class_="why"),
        class_="advice",
    )


def _scenario(found: Scenario) -> Markup:
    ran = [each for each in found.standings if not each.missing]
    head = ["", "verdict", *(f"{name}, {unit}" if unit else name for name, unit in found.columns.items())]
    body = [[each.name, _verdict(each), *(cell(each.cells.get(name)) for name in found.columns)] for each in ran]
    words = [1]
    parts = [tag("h2", found.name), tag("p", found.question, class_="legend")]
    parts += [table(f"{found.name}: results", head, body, words)] if ran else []
    notes = [f"{each.name}: {each.note}" for each in ran if each.note]
    notes += [
        f"{each.name} is not installed, and was not run: {each.missing}" for each in found.standings if each.missing
    ]
    notes += [] if found.finished else ["interrupted"]
    parts += [tag("p", each, class_="legend") for each in notes]
    lines = [(each.name, each.timeline) for each in ran if each.timeline is not None]
    if lines:
        common = frame([line for _, line in lines])
        legend = "Dots: requests, by when they were due and how long they took; where they are many, some of the quick "
        legend += "ones are left out. Crosses: every one that was lost. Dotted lines: what was done."
        parts += [tag("h3", "Timelines"), tag("p", legend, class_="legend")]
        parts += [timeline(name, line, common) for name, line in lines]
    return tag("section", *parts)


def _verdict(standing: Standing) -> Markup:
    if standing.good is None:
        return join(standing.verdict)
    mark, kind, spoken = ("✓", "yes", "as it should be") if standing.good else ("✕", "no", "not as it should be")
    return join(tag("span", mark, class_=kind, role="img", aria_label=spoken), f" {standing.verdict}")


def _method(report: Report) -> Markup:
    facts = [*_asked(report.study), *_where(report)]
    pairs = [part for name, text in facts for part in (tag("dt", name), tag("dd", text))]
    parts = [tag("h2", "How it was measured"), tag("dl", *pairs, class_="facts")]
    if report.study is not None:
        rows = [[each.name, each.version, tag("code", " ".join(each.command))] for each in report.study.results]
        parts.append(tag("details", tag("summary", "Command lines"), _commands(rows)))
    return tag("section", *parts)


def _commands(rows: list[list[str]]) -> Markup:
    return table("Command lines", ["", "version", "command line"], rows, [1, 2])


def _asked(study: Study | None) -> Iterator[tuple[str, str]]:
    if study is None:
        return
    yield "app", f"{study.app} ({study.interface}), {several(study.workers, 'worker')}"
    yield "requests", ", ".join(study.requests)
    through = f", through {study.through}" if study.through else ""
    yield "load", f"{several(study.rounds, 'round')} of {study.seconds:g} s, contestants in turn{through}"


def _where(report: Report) -> Iterator[tuple[str, str]]:
    machine, made = report.machine, report.generator
    if made is not None:
        against = f" ({made.against})" if made.against else ""
        limit = f"at most {rate(made.ceiling)}/s here{against}" if made.ceiling else "its limit was not measured"
        yield "generator", f"{' '.join(filter(None, [made.name, made.version]))}, {limit}"
    yield "processor", f"{machine.processor}, {several(machine.cores, 'core')}"
    yield "memory", f"{machine.memory:,} MiB"
    yield "system", f"Linux {machine.kernel}, Python {machine.python}"
    autogroup = ", autogroup on: the scheduler shares the processors out between sessions first"
    yield "load at the beginning", f"{machine.load:.1f}{autogroup if machine.autogroup else ''}"
    yield "versions", ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    if machine.commit:
        yield "commit", machine.commit
