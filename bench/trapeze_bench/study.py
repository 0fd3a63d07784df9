"""The rounds: every contestant in turn, A B C, A B C; what each turn found goes into the document."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol

from trapeze_bench.entrants import Entrant, Unusable
from trapeze_bench.fixedload import FixedFound, rate_of
from trapeze_bench.interrupts import held, released
from trapeze_bench.loadresult import Found
from trapeze_bench.plan import Remaining
from trapeze_bench.results import Closed, Fixed, Result, Study
from trapeze_bench.targets import Failed
from trapeze_bench.turns import Course, Probe, Turn, probe, turn

__all__ = ["Watcher", "add", "conduct", "examine"]


class Watcher(Protocol):
    """Whoever waits for it."""

    def says(self, text: str) -> None:
        """Something worth a line."""

    def doing(self, name: str, round_: int, what: str, left: float) -> None:
        """A contestant does something now; `left` seconds are left of all."""

    def measured(self, study: Study, name: str, round_: int, left: float) -> None:
        """A turn is over."""


def examine(entrants: Sequence[Entrant], course: Course, results: Sequence[Result], watcher: Watcher) -> None:
    """Start each once and ask it: what is wrong with the app, or with one of them, is known before the long run.

    Args:
        entrants: who takes part.
        course: what is asked.
        results: of each of them; what is wrong is noted there.
        watcher: is told.

    Raises:
        Unusable: none of them can serve the app.
    """
    probes: list[Probe] = []
    for entrant, result in zip(entrants, results, strict=True):
        try:
            found = probe(entrant, course)
        except Failed as error:
            result.failed = f"it does not start: {_words(error)}"
            watcher.says(f"{entrant.name}: {result.failed}")
            continue
        probes.append(found)
        if found.asked is not None:
            result.failed = str(found)
            watcher.says(f"{entrant.name}: {found}")
    if all(result.failed for result in results):
        first = next((found for found in probes if found.asked is not None), None)
        if first is not None:
            hint = "ask for what it has, by --path or --requests-file" if first.status < 500 else ""
            raise Unusable(f"{course.served.app}: {first}", hint, exit_code=1)
        why = f"{results[0].name}: {results[0].failed}"
        raise Unusable(f"{course.served.app}: nobody can serve it; {why}", exit_code=1)


def _words(error: Failed) -> str:
    """Of one line."""
    return " | ".join(line.strip() for line in str(error).splitlines() if line.strip())


class _Rate:
    """The fixed rate: what was asked for, or half of what the first one drives, which is the reference."""

    def __init__(self, asked: float | None) -> None:
        self.rate = asked

    def __call__(self, closed: Sequence[Found]) -> float:
        if self.rate is None:
            self.rate = rate_of([found.rate for found in closed])
        return self.rate


def conduct(
    study: Study, entrants: Sequence[Entrant], course: Course, rate: float | None, left: Remaining, watcher: Watcher
) -> None:
    """Measure all of them, round by round. One that fails is given up, and the others go on.

    Args:
        study: is filled as it goes: what is in it when this is broken off was measured.
        entrants: in the order of `study.results`.
        course: of each turn.
        rate: requests per second of the open loop; None: by the reference.
        left: how long it takes.
        watcher: is told.
    """
    fixed = _Rate(rate)
    for round_ in range(1, study.rounds + 1):
        for entrant, result in zip(entrants, study.results, strict=True):
            if result.failed:
                continue
            _one(study, entrant, result, course, fixed, left, watcher, round_)
    study.finished = True


def _one(
    study: Study,
    entrant: Entrant,
    result: Result,
    course: Course,
    fixed: _Rate,
    left: Remaining,
    watcher: Watcher,
    round_: int,
) -> None:
    def say(what: str) -> None:
        watcher.doing(entrant.name, round_, what, left.seconds(time.monotonic()))

    left.begin(time.monotonic())
    with held():  # what was found is noted as a whole or not at all
        try:
            with released():
                found = turn(entrant, course, fixed, say)
            add(result, found, course.connections, fixed.rate or 0.0)
            left.end(time.monotonic())
        except Failed as error:
            result.failed = f"round {round_}: {_words(error)}"
            watcher.says(f"{entrant.name}: {result.failed}")
            left.end(time.monotonic(), failed=True, dropped=study.rounds - round_)
    watcher.measured(study, entrant.name, round_, left.seconds(time.monotonic()))


def add(result: Result, found: Turn, connections: Sequence[int], rate: float) -> None:
    """Note what one turn has found.

    Args:
        result: of the contestant.
        found: by the turn.
        connections: of its closed loads.
        rate: of its open one.
    """
    if not result.closed:
        result.closed = [Closed(number) for number in connections]
    for closed, load in zip(result.closed, found.closed, strict=True):
        closed.rates.append(round(load.rate, 1))
        _append(closed.latencies, load.latencies)
        _add(closed.errors, load.errors)
        closed.requests += load.requests
    if found.fixed is not None:
        result.fixed = _fixed(result.fixed or Fixed(round(rate, 1)), found.fixed)
    result.starts.append(round(found.start, 3))
    result.cpu_workers.append(round(found.cpu_workers, 4))
    result.cpu_supervisor.append(round(found.cpu_others, 4))
    result.pss_workers.append(round(found.pss_workers, 1))
    result.pss_supervisor.append(round(found.pss_others, 1))
    result.balance.append(round(found.balance, 2))


def _fixed(before: Fixed, found: FixedFound) -> Fixed:
    _append(before.latencies, found.latencies)
    _add(before.lost, found.lost)
    before.requests += found.requests
    before.saturated = before.saturated or found.saturated
    return before


def _append(lists: dict[str, list[float]], found: dict[str, float]) -> None:
    for level, value in found.items():
        lists.setdefault(level, []).append(value)


def _add(counts: dict[str, int], found: dict[str, int]) -> None:
    for kind, number in found.items():
        counts[kind] = counts.get(kind, 0) + number
