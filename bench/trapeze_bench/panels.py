"""The sections of the page about one app: throughput, latency, what trapeze costs, what it takes. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from trapeze_bench.charts import Mark, Row, linear, logarithmic, rows
from trapeze_bench.compare import LEAST_DIFFERENCE, Comparison
from trapeze_bench.findings import at, errors, paired, ranked, reference, tail, versus
from trapeze_bench.markup import Markup, table, tag
from trapeze_bench.results import Result, Study
from trapeze_bench.words import (
    NONE,
    cell,
    counts,
    duration,
    median,
    milliseconds,
    number,
    rate,
    ratio,
    seconds,
    several,
    span,
)

__all__ = ["study_sections"]

PARTS = {"p50": "dot", "p90": "dot", "p99": "tick", "p99.9": "ring", "max": "cross"}
Latencies = dict[str, list[float]]


def study_sections(study: Study) -> Iterator[Markup]:
    """In their order."""
    found = ranked(study)
    if found:
        yield _throughput(study, found)
        yield _latency(study, found)
    if pairs := paired(study):
        yield _overhead(study, pairs)
    if found:
        yield _takes(found)
    if failed := [each for each in study.results if each.failed or errors(each)]:
        body = [[each.name, each.failed, counts(errors(each))] for each in failed]
        yield tag(
            "section",
            tag("h2", "Errors"),
            table("Contestants with errors", ["", "could not be measured", "errors"], body, [1, 2]),
        )


def _section(title: str, legend: str, panels: Sequence[Markup], numbers: Sequence[Markup]) -> Markup:
    return tag(
        "section",
        tag("h2", title),
        tag("p", legend, class_="legend"),
        tag("div", *panels, class_="panels" if len(panels) in (3, 5, 6) else "panels wide"),
        tag("details", tag("summary", "The numbers"), *numbers),
    )


# -- throughput -------------------------------------------------------------------------------------------------------


def _throughput(study: Study, found: Sequence[Result]) -> Markup:
    base = reference(study)
    panels, numbers = [], []
    for connections in study.connections:
        here = [(each, run) for each in found if (run := at(each, connections))]
        if not here:
            continue
        scale = linear(max(max(run.rates) for _, run in here), _thousands)
        drawn = []
        for each, run in here:
            middle = median(run.rates) or 0.0
            beside = _beside(each, base, connections)
            words = f"median {rate(middle)} requests per second, from {span(run.rates).replace('-', ' to ')}, {beside}"
            marks = [*(Mark("dot", value) for value in run.rates), Mark("tick", middle)]
            whisker = (min(run.rates), max(run.rates))
            drawn.append(Row(each.name, each.role, rate(middle), beside, words, marks, whisker, middle))
        title = several(connections, "connection")
        its = at(base, connections) if base else None
        panels.append(rows(title, drawn, scale, line=median(its.rates) if its else None))
        body = [
            [each.name, rate(median(run.rates)), *span(run.rates).split("-"), _beside(each, base, connections)]
            for each, run in here
        ]
        head = ["", "median", "least", "greatest", "of the reference"]
        numbers.append(table(f"Requests per second, {title}", head, body))
    legend = "Bar and tick: the median. Dots: each round; the line through them is the spread. "
    legend += f"Dashed: {base.name}, the reference; “same” is a difference inside the noise." if base else ""
    return _section("Requests per second", legend, panels, numbers)


def _thousands(value: float) -> str:
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"


def _beside(result: Result, base: Result | None, connections: int) -> str:
    found = versus(result, base, connections)
    if result is base or found is None:
        return "reference" if result is base else ""
    return "same" if found.verdict == "same" else f"{ratio(found.ratio)} ×"


# -- latency ----------------------------------------------------------------------------------------------------------


def _latency(study: Study, found: Sequence[Result]) -> Markup:
    groups: list[tuple[str, list[tuple[Result, Latencies, int, str]]]] = []
    fixed = [(each, each.fixed) for each in found if each.fixed and each.fixed.latencies]
    if fixed:
        here = [
            (each, run.latencies, sum(run.lost.values()), "cannot keep up" if run.saturated else "")
            for each, run in fixed
        ]
        rates = {run.rate for _, run in fixed}
        groups.append((f"{rate(rates.pop())} requests/s" if len(rates) == 1 else "A fixed rate", here))
    for connections in study.connections:
        runs = [(each, run) for each in found if (run := at(each, connections)) and run.latencies]
        here = [(each, run.latencies, sum(run.errors.values()), "") for each, run in runs]
        groups.append((several(connections, "connection"), here))
    panels = [_percentiles(title, here) for title, here in groups if here]
    numbers = [_percentile_table(title, here) for title, here in groups if here]
    legend = (
        "Dots: p50 and p90. Tick: p99. Ring: p99.9. Cross: the longest. Medians of all rounds, on a logarithmic scale. "
    )
    legend += (
        "At the fixed rate requests are timed from when they were due, so that a server that stands still is seen to."
    )
    return _section("Milliseconds to the answer", legend, panels, numbers)


def _percentiles(title: str, here: Sequence[tuple[Result, Latencies, int, str]]) -> Markup:
    everything = [value for _, times, _, _ in here for part in PARTS if (value := median(times.get(part, [])))]
    drawn = []
    for each, times, lost, remark in here:
        middles = {part: value for part in PARTS if (value := median(times.get(part, []))) is not None}
        words = ", ".join(f"{part} {milliseconds(value)} ms" for part, value in middles.items())
        beside = ", ".join(filter(None, [remark, several(lost, "error") if lost else ""]))
        marks = [Mark(PARTS[part], value) for part, value in middles.items()]
        whisker = (min(middles.values()), max(middles.values())) if middles else None
        p99 = f"p99 {milliseconds(middles.get('p99'))} ms"
        drawn.append(Row(each.name, each.role, p99, beside, f"{words} {beside}".strip(), marks, whisker))
    return rows(title, drawn, logarithmic(everything, duration))


def _percentile_table(title: str, here: Sequence[tuple[Result, Latencies, int, str]]) -> Markup:
    body = [
        [each.name, *(milliseconds(median(times.get(part, []))) for part in PARTS), cell(lost), remark]
        for each, times, lost, remark in here
    ]
    return table(f"Milliseconds, {title}", ["", *PARTS, "errors", ""], body, [len(PARTS) + 2])


# -- overhead ---------------------------------------------------------------------------------------------------------


def _overhead(study: Study, pairs: Sequence[tuple[Result, Result]]) -> Markup:
    panels, columns = [], []
    for connections in study.connections:
        found = [(one, it) for one, other in pairs if (it := versus(one, other, connections))]
        if not found:
            continue
        values = [value for _, it in found for value in (it.low, it.high)]
        scale = logarithmic(values, lambda value: f"{value:g}", around=1.0)
        drawn = [_ratio_row(one, it) for one, it in found]
        band = (1 - LEAST_DIFFERENCE, 1 + LEAST_DIFFERENCE)
        panels.append(rows(several(connections, "connection"), drawn, scale, line=1.0, band=band))
        columns.append((f"{several(connections, 'connection')}", [_cell(versus(*pair, connections)) for pair in pairs]))
    columns.append(("p99 at the fixed rate", [_cell(tail(*pair)) for pair in pairs]))
    columns.append(("processor", [_of(_both(one, "cpu"), _both(other, "cpu")) for one, other in pairs]))
    columns.append(("memory", [_of(_both(one, "pss"), _both(other, "pss")) for one, other in pairs]))
    columns.append(("start", [_of(median(one.starts), median(other.starts)) for one, other in pairs]))
    body = [[one.name, *(cells[row] for _, cells in columns)] for row, (one, _) in enumerate(pairs)]
    numbers = [table("Under trapeze, of the same server run by itself", ["", *(head for head, _ in columns)], body)]
    legend = (
        "Requests per second under trapeze, of the same server run by itself: 1 is no difference. Tick: the median "
    )
    legend += "of the ratios of all rounds; line: the least and the greatest; shaded: less than two builds differ by."
    return _section("What trapeze costs", legend, panels, numbers)


def _ratio_row(one: Result, found: Comparison) -> Row:
    kind = f"{one.role} bad" if found.verdict == "slower" else one.role
    marks = [Mark("tick", found.ratio)]
    return Row(one.name, kind, ratio(found.ratio), found.verdict, _said(found), marks, (found.low, found.high))


def _said(found: Comparison) -> str:
    return f"{ratio(found.ratio)}, from {ratio(found.low)} to {ratio(found.high)}: {found.verdict}"


def _cell(found: Comparison | None) -> str:
    return NONE if found is None else f"{ratio(found.ratio)} {found.verdict}"


def _both(result: Result, what: str) -> float | None:
    workers = median(getattr(result, f"{what}_workers"))
    supervisor = median(getattr(result, f"{what}_supervisor")) or 0.0
    return None if workers is None else workers + supervisor


def _of(one: float | None, other: float | None) -> str:
    return ratio(one / other) if one is not None and other else NONE


# -- what it takes ----------------------------------------------------------------------------------------------------


def _takes(found: Sequence[Result]) -> Markup:
    head = ["", "CPU s, workers", "CPU s, supervisor", "MiB, workers", "MiB, supervisor", "balance", "start, s"]
    body = [
        [
            each.name,
            seconds(median(each.cpu_workers)),
            seconds(median(each.cpu_supervisor)),
            number(median(each.pss_workers), 2),
            number(median(each.pss_supervisor), 2),
            ratio(median(each.balance)),
            ratio(median(each.starts)),
        ]
        for each in found
    ]
    legend = (
        "Processor seconds per 1,000 requests and memory (PSS) after the load, in the workers and in the supervisor. "
    )
    legend += (
        "Balance: the busiest worker, of the mean of all. Start: from exec to the first answer. Medians of all rounds."
    )
    numbers = table("Processor, memory, balance, start", head, body)
    return tag("section", tag("h2", "What it takes"), tag("p", legend, class_="legend"), numbers)
