"""How long it will take: an estimate from the plan, corrected by what the turns have taken so far. Pure."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Plan", "Remaining", "duration"]

AROUND = 2.5
"""Seconds of a turn in which nothing is measured: start, workers at rest, stop."""
BETWEEN = 0.3
"""Seconds on top of each load: the generator starts, too."""
PROBE = 1.5
"""Seconds to start a server, ask, and stop it."""


class Plan(NamedTuple):
    """What is going to be done."""

    entrants: int
    rounds: int
    loads: int
    """Closed ones of a turn: one for each number of connections."""
    seconds: float
    """Of each load."""
    warm: float
    """Seconds of the warm-up."""

    @property
    def turn(self) -> float:
        """Seconds of one turn: the closed loads, the open one, the warm-up, and what is around them."""
        return AROUND + self.warm + (self.loads + 1) * (self.seconds + BETWEEN) + BETWEEN

    @property
    def whole(self) -> float:
        """Seconds of all of it: calibration, probes, turns."""
        return self.seconds + self.entrants * (PROBE + self.rounds * self.turn)


class Remaining:
    """How much is left. Told of each turn, and of those that will not come."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.left = plan.entrants * plan.rounds
        """Turns that are not over."""
        self.took: list[float] = []
        self.began: float | None = None
        """When the turn began that is under way."""

    def drop(self, turns: int) -> None:
        """These will not come."""
        self.left = max(self.left - turns, 0)

    def begin(self, now: float) -> None:
        """A turn begins."""
        self.began = now

    def end(self, now: float, *, failed: bool = False, dropped: int = 0) -> None:
        """It is over.

        Args:
            now: seconds, of the clock of `begin`.
            failed: how long it took says nothing of others.
            dropped: turns that will not come, of a contestant that was given up.
        """
        if self.began is not None and not failed:
            self.took.append(now - self.began)
        self.began = None
        self.drop(1 + dropped)

    def seconds(self, now: float) -> float:
        """Seconds until the end, by what turns have taken so far."""
        each = sum(self.took) / len(self.took) if self.took else self.plan.turn
        under_way = min(now - self.began, each) if self.began is not None else 0.0
        return max(self.left * each - under_way, 0.0)


def duration(seconds: float) -> str:
    """In words: "40 s", "12 min", "1 h 5 min"."""
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if minutes % 60 else f"{minutes // 60} h"
