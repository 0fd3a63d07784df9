"""How sure a recommendation is: by what was measured, and by what speaks against the measurement itself. Pure.

Who is ahead of whom is one half of it. The other is whether these numbers can be believed at all: others at work on the
machine, rounds that differ from each other more than the contestants do, so few of them that chance would do, and a
generator that was at its limit. What is least sure decides, and is what is said.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from trapeze_bench.compare import LEAST_ROUNDS, Verdict, spread
from trapeze_bench.findings import at, at_work, crowded, leaders, near_ceiling, tail, versus
from trapeze_bench.results import Generator, Result, Study
from trapeze_bench.words import listed, several

__all__ = ["BORING", "UNKNOWN", "Certainty", "Sure", "Surroundings", "certainty", "later", "verdicts"]

Sure = Literal["high", "medium", "low"]
BORING = ("gunicorn", "uvicorn")
"""What most people run: known best, and taken where nothing that can be measured speaks against it."""
LEVELS: tuple[Sure, ...] = ("low", "medium", "high")
FULL = 1.0
"""Load for each core, from which on others had as much of the machine as the bench."""
WIDE = 0.25
"""Of the median, from the least round to the greatest: where it is as much, nothing is highly certain."""
LUCK = 0.05
"""Chance that equals are separated like this, above which a lead is not certain."""


class Surroundings(NamedTuple):
    """What was there beside the contestants."""

    cores: int | None = None
    """None: not known."""
    load: float = 0.0
    """Load average when it began."""
    generator: Generator | None = None


UNKNOWN = Surroundings()


class Certainty(NamedTuple):
    """How sure it is."""

    sure: Sure
    why: str
    """What decides, after "since"."""
    remedies: Sequence[str] = ()
    """What would make it surer."""


def certainty(study: Study, first: Result, same: Sequence[Result], around: Surroundings) -> Certainty:
    """How sure it is that one of `same` is the one to take.

    Args:
        study: what was measured.
        first: the fastest that can be recommended.
        same: those that are not clearly behind it, and it.
        around: the machine and the generator.
    """
    found = [_standing(study, first, same), *_doubts(study, first, around)]
    least = min((each.sure for each in found), key=LEVELS.index)
    why = "; and ".join(each.why for each in found if each.sure == least)
    return Certainty(least, why, [remedy for each in found for remedy in each.remedies])


# -- who is ahead -----------------------------------------------------------------------------------------------------


def verdicts(study: Study, one: Result, other: Result) -> list[Verdict]:
    """Requests per second of one beside those of the other, at each number of connections that both have."""
    return [it.verdict for number in study.connections if (it := versus(one, other, number))]


def later(one: Result, other: Result) -> bool:
    """Does it answer later at the fixed rate, or cannot keep up with it, where the other can?"""
    found = tail(one, other)
    saturated = bool(one.fixed and one.fixed.saturated and other.fixed and not other.fixed.saturated)
    return saturated or (found is not None and found.verdict == "slower")


def _rounds(result: Result) -> int:
    return min((len(run.rates) for run in result.closed), default=0)


def _standing(study: Study, first: Result, same: Sequence[Result]) -> Certainty:
    """By the numbers, as if they could be believed."""
    if not study.finished:
        return Certainty("low", "the measurement was cut short")
    if (rounds := _rounds(first)) < LEAST_ROUNDS:
        return Certainty("low", f"it was measured for no more than {several(rounds, 'round')}")
    if len(same) > 1:
        names = listed(each.name for each in same)
        taken = "the one that most people run" if any(each.backend in BORING for each in same) else "the first"
        return Certainty("low", f"{names} are the same within the noise: of these it is {taken}")
    others = [each for each in leaders(study) if each is not first]
    if not others:
        return Certainty("medium", "there was no other to compare it with")
    return _lead(study, first, others)


def _lead(study: Study, first: Result, others: Sequence[Result]) -> Certainty:
    level = [each.name for each in others if "faster" not in verdicts(study, first, each)]
    if level:
        return Certainty("low", f"in requests per second it is the same as {listed(level)} within the noise")
    unclear = [each.name for each in others if set(verdicts(study, first, each)) != {"faster"}]
    if unclear:
        return Certainty("medium", f"it is not ahead of {listed(unclear)} at every number of connections")
    behind = [each.name for each in others if later(first, each)]
    if behind:
        return Certainty("medium", f"it is the fastest, but answers later at the fixed rate than {listed(behind)}")
    everywhere = "it is ahead at every number of connections"
    return Certainty("high", f"{everywhere}, and its late answers are no later than those of others")


# -- what speaks against the numbers ----------------------------------------------------------------------------------


def _doubts(study: Study, first: Result, around: Surroundings) -> Iterator[Certainty]:
    if around.cores and crowded(around.load, around.cores):
        sure: Sure = "low" if around.load > FULL * around.cores else "medium"
        remedy = "others had a share of the machine: measure when it does nothing else"
        yield Certainty(sure, f"others were at work when it began ({at_work(around.load, around.cores)})", [remedy])
    if first.name in near_ceiling(study, around.generator):
        yield Certainty("medium", "it came near to what the generator can drive")
    if _rounds(first) < LEAST_ROUNDS:
        return
    rival = next((each for each in leaders(study) if each is not first), None)
    yield from _scattered(study, first, rival)
    yield from _lucky(study, first, rival)


def _scattered(study: Study, first: Result, rival: Result | None) -> Iterator[Certainty]:
    """Rounds of these two that differ much; where it is by more than the lead, there is none to speak of."""
    found = [
        (width, number, each.name)
        for number in study.connections
        for each in (first, rival)
        if each is not None and (width := _width(each, number)) >= WIDE
    ]
    if not found:
        return
    width, number, name = max(found)
    drowned = any((it := versus(first, rival, at_once)) and it.ratio - 1 <= by for by, at_once, _ in found)
    sure: Sure = "low" if drowned else "medium"
    where = f"{name} at {several(number, 'connection')}"
    words = f"its rounds differ by {100 * width:.0f} % of their median" if name == first.name else ""
    words = words or f"the rounds of the next one differ by {100 * width:.0f} % of their median"
    yield Certainty(sure, f"{words} ({where})", ["rounds that differ so much need to be more: --rounds 8"])


def _width(result: Result, connections: int) -> float:
    """From the least round to the greatest, of the median."""
    run = at(result, connections)
    found = spread(run.rates) if run else None
    return (found.high - found.low) / found.median if found and found.median else 0.0


def _lucky(study: Study, first: Result, rival: Result | None) -> Iterator[Certainty]:
    """Each number of connections was loaded anew: as good as a draw of its own."""
    found = [it for number in study.connections if (it := versus(first, rival, number))]
    chance = math.prod(it.chance for it in found)
    if found and chance > LUCK:
        words = f"chance alone would separate two that are equal like this in {100 * chance:.0f} % of all cases"
        remedy = f"more than {several(_rounds(first), 'round')} would leave less to chance"
        yield Certainty("medium", words, [remedy])
