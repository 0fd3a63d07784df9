"""What bench/results/ holds: a report for each part of a full run, as JSON and as a page, and what is made of them.

A part is one command of `trapeze bench`: the study of the hello app for WSGI, that for ASGI, and each scenario. Each
has its report, with its own time and commit. The picture and the tables are made of these files and of nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from trapeze_bench import documents, page
from trapeze_bench.picture import picture
from trapeze_bench.results import Report, Timeline
from trapeze_bench.sampling import sampled
from trapeze_bench.scenarios import SCENARIOS
from trapeze_bench.showing import facts, section

__all__ = ["BEGIN", "END", "LIMIT", "PARTS", "PICTURE", "STUDIES", "between", "filled", "load", "put", "thin", "write"]

STUDIES = ("wsgi", "asgi")
"""Parts that are studies: the interface of the hello app."""
PARTS = (*STUDIES, *SCENARIOS)
"""In the order in which they are measured and shown."""
PICTURE = "summary.svg"
LIMIT = 500_000
"""Bytes of a report: what is there to be looked at in a repository is no place for every request of a minute."""
POINTS = (2000, 1000, 500, 200, 50)
"""Answered requests of a timeline: the most with which a report stays within the limit."""
BEGIN = "<!-- results: written by bench/publish.py from bench/results/*.json; do not edit -->"
END = "<!-- /results -->"


def load(directory: Path) -> dict[str, Report]:
    """The reports that are there, by the name of their part, in the order of the parts.

    Raises:
        NotAReport: one of the files is none.
    """
    found = {}
    for part in PARTS:
        path = directory / f"{part}.json"
        if path.exists():
            found[part] = documents.loads(path.read_bytes())
    return found


def thin(report: Report, limit: int = LIMIT) -> Report:
    """With as many answered requests in its timelines as the limit allows. Those that were lost all stay."""
    thinner = report
    for points in POINTS:
        if len(documents.dumps(thinner)) <= limit:
            break
        thinner = _with_timelines(report, lambda timeline, points=points: _thinned(timeline, points))  # type: ignore[misc]
    return thinner


def _with_timelines(report: Report, change: Callable[[Timeline], Timeline]) -> Report:
    scenarios = []
    for scenario in report.scenarios:
        standings = [
            msgspec.structs.replace(each, timeline=change(each.timeline)) if each.timeline else each
            for each in scenario.standings
        ]
        scenarios.append(msgspec.structs.replace(scenario, standings=standings))
    return msgspec.structs.replace(report, scenarios=scenarios)


def _thinned(timeline: Timeline, points: int) -> Timeline:
    shown = sampled(list(zip(timeline.due, timeline.took, strict=True)), points)
    return msgspec.structs.replace(timeline, due=[due for due, _ in shown], took=[took for _, took in shown])


# -- files ------------------------------------------------------------------------------------------------------------


def write(directory: Path, reports: Mapping[str, Report]) -> None:
    """All that the directory holds, of these reports: JSON, pages, picture, and a README of what was measured where."""
    for part, report in reports.items():
        put(directory / f"{part}.json", documents.dumps(report).decode())
        put(directory / f"{part}.html", page.page(report))
    if reports:
        put(directory / PICTURE, picture(reports))
    put(directory / "README.md", facts(reports))


def put(path: Path, text: str) -> None:
    """Write a file as a whole or not at all: whoever breaks it off has the old one."""
    beside = path.with_name(f".{path.name}.new")
    beside.write_text(text)
    os.replace(beside, path)


# -- the README -------------------------------------------------------------------------------------------------------


def between(text: str) -> str:
    """What stands between the marks.

    Raises:
        ValueError: a mark is missing.
    """
    return text[text.index(BEGIN) + len(BEGIN) : text.index(END)]


def filled(text: str, reports: Mapping[str, Report]) -> str:
    """The README with what these reports say between its marks: nothing, if there are none.

    Raises:
        ValueError: a mark is missing.
    """
    before, after = text[: text.index(BEGIN)], text[text.index(END) :]
    return f"{before}{BEGIN}\n{section(reports)}{after}"
