"""What the numbers of a report say: who is ahead of whom, what went wrong, and what a reader has to know first. Pure.

The order of the headline is fixed: where trapeze loses a request, then where it is slower than the same server run by
itself or than the reference, then who is fastest, then what makes all this less sure.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Literal, NamedTuple

from trapeze_bench.compare import LEAST_ROUNDS, Comparison, compare
from trapeze_bench.results import Closed, Generator, Report, Result, Scenario, Study
from trapeze_bench.words import counts, listed, median, milliseconds, rate, ratio, several

__all__ = [
    "Line",
    "at",
    "at_work",
    "clean",
    "counterpart",
    "crowded",
    "errors",
    "headline",
    "in_vain",
    "leaders",
    "near_ceiling",
    "paired",
    "ranked",
    "reference",
    "tail",
    "versus",
]

OURS = "trapeze"
CEILING = 0.8
"""Of what the generator can drive: above it the generator is what is measured."""

TELLS = 0.5
"""Chance of a verdict from which on there are too few rounds for one."""
NAMED = 3
"""Others that did worse in a scenario, in a line of the headline."""
BUSY = 0.5
"""Load for each core, from which on others were at work."""


class Line(NamedTuple):
    """Something to know."""

    kind: Literal["bad", "good", "note"]
    text: str


def at(result: Result, connections: int) -> Closed | None:
    """The closed loop with so many connections, if a round of it was measured."""
    return next((each for each in result.closed if each.connections == connections and each.rates), None)


def reference(study: Study) -> Result | None:
    """What all are compared with."""
    return next((each for each in study.results if each.role == "reference"), None)


def counterpart(study: Study, result: Result) -> Result | None:
    """The same server, run by itself: what the result names, or what has its name."""
    if result.role != OURS:
        return None
    name = result.native or result.name.partition("+")[2]
    return next((each for each in study.results if each.role != OURS and each.name == name), None)


def paired(study: Study) -> list[tuple[Result, Result]]:
    """Those of which something was measured under trapeze and by themselves, the fastest first."""
    found = ranked(study)
    pairs = [(each, counterpart(study, each)) for each in found]
    return [(one, other) for one, other in pairs if other is not None and any(other is each for each in found)]


def versus(one: Result, other: Result | None, connections: int) -> Comparison | None:
    """Requests per second of one beside those of the other; None where one of them has none."""
    ours, its = at(one, connections), at(other, connections) if other else None
    return compare(ours.rates, its.rates) if ours and its else None


def tail(one: Result, other: Result | None, part: str = "p99") -> Comparison | None:
    """Latency at the fixed rate; None where they were not asked the same, or one of them could not keep up."""
    if other is None or one.fixed is None or other.fixed is None:
        return None
    if one.fixed.saturated or other.fixed.saturated or not math.isclose(one.fixed.rate, other.fixed.rate, rel_tol=0.01):
        return None
    ours, its = one.fixed.latencies.get(part), other.fixed.latencies.get(part)
    return compare(ours, its, lower_is_better=True) if ours and its else None


def errors(result: Result) -> dict[str, int]:
    """By kind, of all loads."""
    found: Counter[str] = Counter()
    for each in result.closed:
        found.update(each.errors)
    found.update(result.fixed.lost if result.fixed else {})
    return {kind: times for kind, times in found.items() if times}


def clean(result: Result) -> bool:
    """Measured, and every request was answered."""
    return not result.failed and any(each.rates for each in result.closed) and not errors(result)


def leaders(study: Study) -> list[Result]:
    """Those under trapeze without an error, the fastest first: by the geometric mean of all numbers of connections."""
    found = [each for each in study.results if each.role == OURS and clean(each)]
    found = [each for each in found if all(at(each, number) for number in study.connections)] or found
    return sorted(found, key=_pace, reverse=True)


def ranked(study: Study) -> list[Result]:
    """All of which anything was measured, the fastest first, whatever they are."""
    return sorted((each for each in study.results if any(run.rates for run in each.closed)), key=_pace, reverse=True)


def _pace(result: Result) -> float:
    rates = [middle for each in result.closed if (middle := median(each.rates)) is not None]
    return math.exp(sum(math.log(max(each, 1e-9)) for each in rates) / len(rates)) if rates else 0.0


def near_ceiling(study: Study, generator: Generator | None) -> list[str]:
    """Names of those that come so near to what the generator can drive that it is what was measured."""
    if generator is None or not generator.ceiling:
        return []
    limit = CEILING * generator.ceiling
    return [each.name for each in study.results if any((median(run.rates) or 0) >= limit for run in each.closed)]


def in_vain(report: Report) -> bool:
    """Was there nobody who could be measured, in the study or in one of the scenarios?"""
    if report.study is not None and not ranked(report.study):
        return True
    return any(not any(each.cells for each in scenario.standings) for scenario in report.scenarios)


def crowded(load: float, cores: int) -> bool:
    """Was so much at work when it began that the numbers are those of others, too?"""
    return load > BUSY * cores


def at_work(load: float, cores: int) -> str:
    """In words: "load 10.1 on 2 cores"."""
    return f"load {load:.1f} on {several(cores, 'core')}"


# -- the headline -----------------------------------------------------------------------------------------------------


def headline(report: Report) -> list[Line]:
    """What has to be known before any number, the worst first."""
    lines = [line for scenario in report.scenarios for line in _lost_in(scenario)]
    study = report.study
    if study is not None:
        lines += [*_erring(study), *_behind_native(study), *_behind_reference(study)]
        lines += [*_costs_nothing(study), *_winner(study)]
    lines += [line for scenario in report.scenarios for line in _kept_in(scenario)]
    lines += _cut_short(report)
    if study is not None:
        lines += _doubts(report, study)
    order = {"bad": 0, "good": 1, "note": 2}
    return sorted(lines, key=lambda line: order[line.kind])


def _lost_in(scenario: Scenario) -> Iterator[Line]:
    for each in scenario.standings:
        if each.name.startswith(OURS) and each.good is False and not each.missing:
            yield Line("bad", f"{scenario.name}: {each.name}: {each.verdict or 'not as it should be'}")


def _kept_in(scenario: Scenario) -> Iterator[Line]:
    asked = [each for each in scenario.standings if each.good is not None and not each.missing]
    ours = [each for each in asked if each.name.startswith(OURS)]
    others = [each for each in asked if not each.name.startswith(OURS)]
    if ours and all(each.good for each in ours):
        bad = [f"{each.name}: {each.verdict}" for each in others if not each.good]
        named = [*bad[:NAMED], *([f"and {len(bad) - NAMED} more"] if len(bad) > NAMED else [])]
        beside = f"; not so {'; '.join(named)}" if bad else f"; so did all {len(others)} others" if others else ""
        they = "it" if len(ours) == 1 else "they"
        yield Line("good", f"{scenario.name}: {listed(each.name for each in ours)} did what {they} should{beside}")


def _cut_short(report: Report) -> Iterator[Line]:
    for scenario in report.scenarios:
        if not scenario.finished:
            yield Line("note", f"{scenario.name}: interrupted, not everybody had a turn")


def _erring(study: Study) -> Iterator[Line]:
    for each in study.results:
        if each.role == OURS and (found := errors(each)):
            yield Line("bad", f"{each.name} did not answer every request: {counts(found)}")
        if each.role == OURS and each.failed:
            yield Line("bad", f"{each.name} could not be measured: {each.failed}")


def _behind_native(study: Study) -> Iterator[Line]:
    for each in study.results:
        native = counterpart(study, each)
        if native is None or each.failed:
            continue
        slower = _where_slower(study, each, native)
        if slower:
            yield Line("bad", f"{each.name} is slower than {native.name} run by itself: {listed(slower, 9)}")
        if each.fixed and native.fixed and each.fixed.saturated and not native.fixed.saturated:
            yield Line("bad", f"{each.name} cannot keep up with {rate(each.fixed.rate)}/s, {native.name} by itself can")
        found = tail(each, native)
        if found and found.verdict == "slower" and each.fixed and native.fixed:
            ours, its = (median(one.latencies["p99"]) for one in (each.fixed, native.fixed))
            words = f"p99 {milliseconds(ours)} ms, by itself {milliseconds(its)} ms, at {rate(each.fixed.rate)}/s"
            yield Line("bad", f"{each.name} answers later than {native.name}: {words}")


def _where_slower(study: Study, one: Result, other: Result) -> list[str]:
    found = [(number, versus(one, other, number)) for number in study.connections]
    return [
        f"{ratio(each.ratio)} x ({ratio(each.low)}-{ratio(each.high)}) at {several(number, 'connection')}"
        for number, each in found
        if each is not None and each.verdict == "slower"
    ]


def _behind_reference(study: Study) -> Iterator[Line]:
    base = reference(study)
    slow = []
    for each in study.results:
        if each.role != OURS or counterpart(study, each) is base:  # of that it was said before
            continue
        found = [(versus(each, base, number), number) for number in study.connections]
        worst = min(((it.ratio, number) for it, number in found if it and it.verdict == "slower"), default=None)
        if worst is not None:
            slow.append(f"{each.name} ({ratio(worst[0])} x at {several(worst[1], 'connection')})")
    if base is not None and slow:
        yield Line("bad", f"slower than the reference, {base.name}: {listed(slow, 9)}")


def _costs_nothing(study: Study) -> Iterator[Line]:
    found = _beside_natives(study)
    if found and not any(it.verdict == "slower" for it in found):
        middle, low, high = (
            median([it.ratio for it in found]),
            min(it.low for it in found),
            max(it.high for it in found),
        )
        words = f"{ratio(middle)} x in the median, {ratio(low)}-{ratio(high)} in single rounds"
        beside = several(len(paired(study)), "server")
        yield Line("good", f"beside {beside} run by themselves trapeze is nowhere clearly slower: {words}")


def _beside_natives(study: Study) -> list[Comparison]:
    """All comparisons of requests per second with servers run by themselves that could have been lost."""
    pairs = [(one, other, number) for one, other in paired(study) for number in study.connections if not one.failed]
    found = [it for one, other, number in pairs if (it := versus(one, other, number))]
    return [it for it in found if it.chance < TELLS]


def _winner(study: Study) -> Iterator[Line]:
    found = leaders(study)
    if not ranked(study):
        yield Line("bad", "nothing was measured")
        return
    if not found:
        yield Line("bad", "no server under trapeze answered every request: there is no winner")
        return
    first = found[0]
    same = [each.name for each in found[1:] if not _ahead(study, first, each)]
    places = [words for number in study.connections if (words := _place(study, first, number))]
    if same:
        yield Line("good", f"greatest median: {first.name}, {listed(places, 3)}; not clearly ahead of {listed(same)}")
    else:
        yield Line("good", f"fastest: {first.name}, {listed(places, 3)}")


def _place(study: Study, result: Result, connections: int) -> str:
    run, beside = at(result, connections), versus(result, reference(study), connections)
    if run is None:
        return ""
    words = f"{rate(median(run.rates))}/s at {several(connections, 'connection')}"
    if beside is None:
        return words
    return f"{words} ({'same as' if beside.verdict == 'same' else ratio(beside.ratio) + ' x'} the reference)"


def _ahead(study: Study, one: Result, other: Result) -> bool:
    """Faster at one number of connections at least, and slower at none."""
    found = [it.verdict for number in study.connections if (it := versus(one, other, number))]
    return "faster" in found and "slower" not in found


def _doubts(report: Report, study: Study) -> Iterator[Line]:
    if not study.finished:
        yield Line("note", "interrupted: fewer rounds than were asked for, and not the same for all")
    elif study.rounds < LEAST_ROUNDS:
        yield Line("note", f"fewer than {LEAST_ROUNDS} rounds: no difference can be told from chance")
    machine = report.machine
    if crowded(machine.load, machine.cores):
        words = f"others were at work when it began ({at_work(machine.load, machine.cores)})"
        yield Line("note", f"{words}: the numbers are theirs as well")
    if near := near_ceiling(study, report.generator):
        limit = rate(report.generator.ceiling if report.generator else None)
        words = f"so near to what the generator can drive ({limit}/s) that it was measured, too"
        yield Line("note", f"{words}: {listed(near)}")
    found = _beside_natives(study)
    expected = sum(it.chance for it in found) / 2
    if expected >= 0.5:
        words = f"with so few rounds chance alone calls up to {expected:.0f} of {len(found)} comparisons slower"
        yield Line("note", f"{words} (trapeze beside servers run by themselves); more rounds make that rarer")
