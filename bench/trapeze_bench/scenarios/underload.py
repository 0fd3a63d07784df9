"""A load of two clients, one with new connections and one with kept ones, and what became of its requests."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from trapeze_bench.loads import KEPT, Load, Period, loaded, within
from trapeze_bench.openloop import Plan, Result
from trapeze_bench.results import Event, Timeline
from trapeze_bench.sampling import sampled
from trapeze_bench.targets import Failed

__all__ = ["POINTS", "WARM", "Both", "Outcome", "under_load"]

WARM = 1.5
"""Seconds of load before anything is done."""
POINTS = 5000
"""Answered requests of a timeline, at most: the slowest, and of the others as many by chance."""
LATE = 0.1
"""Seconds that the client was behind; more, and times and losses are partly those of the machine: the row says so."""
TOO_LATE = 1.0
"""Seconds; more than that, and nothing can be said of a server."""


@dataclass
class Outcome:
    """What became of the requests."""

    began: float
    """Monotonic seconds."""
    fresh: Result
    kept: Result
    events: list[Event] = field(default_factory=list)

    @property
    def requests(self) -> int:
        """All of them."""
        return sum(len(each.due) + len(each.lost) for each in (self.fresh, self.kept))

    def lost(self, kind: str | None = None, since: float = 0.0) -> list[tuple[float, str]]:
        """Those that got no answer or a wrong one, and were due at or after a time."""
        chosen = {"fresh": [self.fresh], "kept": [self.kept], None: [self.fresh, self.kept]}[kind]
        return [each for result in chosen for each in result.lost if each[0] >= since]

    def took(self, *periods: Period) -> list[float]:
        """Seconds, of those that were due in these periods and answered; sorted."""
        return sorted(within(self.fresh, periods) + within(self.kept, periods))

    def why(self, since: float = 0.0) -> str:
        """What happened to those that were lost, the most frequent first."""
        found = Counter(why for _, why in self.lost(since=since)).most_common()
        return ", ".join(f"{number} {why}" for why, number in found[:4]) + (", ..." if len(found) > 4 else "")

    def note(self, since: float = 0.0) -> str:
        """For whoever reads the row: `why`, and whether it was the load that it was to be."""
        late = max(self.fresh.behind, self.kept.behind)
        busy = f"the load came up to {1000 * late:.0f} ms late: this machine had no time for it" if late > LATE else ""
        return "; ".join(filter(None, [self.why(since), busy]))

    def timeline(self, seed: int = 1) -> Timeline:
        """All that were lost; of the others no more than POINTS."""
        answered = [
            (due - self.began, 1000 * took)
            for result in (self.fresh, self.kept)
            for due, took in zip(result.due, result.took, strict=True)
        ]
        shown = sampled(answered, POINTS, seed)
        lost = sorted((round(due - self.began, 4), why) for due, why in self.lost())
        return Timeline(
            [round(due, 4) for due, _ in shown], [round(took, 3) for _, took in shown], lost, list(self.events)
        )


class Both:
    """The two clients while they run."""

    def __init__(self, fresh: Load, kept: Load) -> None:
        self.loads = fresh, kept
        self.began = time.monotonic()
        self.events: list[Event] = []

    def note(self, what: str) -> float:
        """Something is done now; return the time."""
        now = time.monotonic()
        self.events.append(Event(round(now - self.began, 4), what))
        return now

    def stop(self) -> Outcome:
        """Send no more, wait for what is under way.

        Raises:
            Failed: the load was not what it was to be.
        """
        for load in self.loads:
            load.end()
        fresh, kept = (load.stop() for load in self.loads)
        if (late := max(fresh.behind, kept.behind)) > TOO_LATE:
            raise Failed(f"the load came up to {late:.0f} s late: this machine had no time for it")
        return Outcome(self.began, fresh, kept, self.events)


@contextmanager
def under_load(port: int, rate: float, seed: int) -> Iterator[Both]:
    """Put a server under load until it is stopped or left; it has been so for WARM seconds when this begins."""
    with ExitStack() as stack:
        plans = [Plan(port, rate / 2, kept, seed=seed + number) for number, kept in enumerate((0, KEPT))]
        fresh, kept = [stack.enter_context(loaded(plan)) for plan in plans]
        both = Both(fresh, kept)
        time.sleep(WARM)
        yield both
