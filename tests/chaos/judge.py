"""What was lost, and what was broken otherwise: from the notes of the client, of the app and of the supervisor."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any, NamedTuple

from tests.chaos.records import DOUBLED, LOST, NEVER_LIVE, OK, RESET, UNFINISHED, WRONG_BODY, WRONG_STATUS, Record

__all__ = ["Kill", "Life", "Verdict", "floor_breaches", "judge", "lives", "mixed_generations", "shot", "table"]

SLACK = 0.5
"""Seconds between what happens and the moment at which a process on a busy machine writes it down."""

BY_DEATH = (RESET, UNFINISHED, WRONG_STATUS)
"""What a client may see of a worker's SIGKILL; behind a proxy it is a 502."""


class Life(NamedTuple):
    """One worker. Times are CLOCK_MONOTONIC."""

    service: str
    pid: int
    generation: int
    ready: float
    """When it said so; infinite if it never did: it was asked to leave before."""
    end: float


class Kill(NamedTuple):
    """A worker that the driver has killed, or stopped so that the supervisor kills it."""

    service: str
    pid: int
    start: float
    end: float
    """When the supervisor had noticed."""


class Verdict(NamedTuple):
    """A record, and what is to be thought of it."""

    record: Record
    excepted: bool = False
    """Inside a worker that was killed by the driver."""

    @property
    def lost(self) -> bool:
        """Is it a loss?"""
        return self.record.outcome in LOST and not self.excepted


def lives(events: Iterable[Mapping[str, Any]], offset: float) -> list[Life]:
    """The workers that there were; `offset` makes CLOCK_MONOTONIC of the events' time."""
    found: dict[tuple[str, int], Life] = {}
    for event in events:
        if event["process"] is None:
            continue
        key, at = (event["service"], event["process"]), event["at"] + offset
        if key not in found:
            found[key] = Life(event["service"], event["pid"], event["generation"], math.inf, math.inf)
        if event["to"] == "READY":
            found[key] = found[key]._replace(ready=min(at, found[key].ready))
        elif event["to"] == "EXITED":
            found[key] = found[key]._replace(end=at)
    return list(found.values())


def judge(
    records: Iterable[Record],
    executed: Mapping[str, Sequence[int]],
    alive: Iterable[Life],
    kills: Sequence[Kill],
    split: frozenset[str] = frozenset(),
) -> list[Verdict]:
    """Look at each request.

    Args:
        records: what the client saw.
        executed: pids that executed each id, once for each time.
        alive: the workers that there were.
        kills: what the driver did to them.
        split: services whose answers come from children of their workers.
    """
    generations = defaultdict(list)
    for life in alive:
        generations[life.service, life.generation].append(life)
    verdicts = []
    for record in records:
        pids = executed.get(record.id, ())
        if len(pids) > 1:
            record = record._replace(outcome=DOUBLED, phase="app", detail=f"executed by {list(pids)}")
        elif record.outcome == OK:
            record = _check(record, pids, generations, record.service in split)
        verdicts.append(Verdict(record, any(_inside(record, pids, kill, split) for kill in kills)))
    return verdicts


def _check(
    record: Record, pids: Sequence[int], generations: Mapping[tuple[str, int], list[Life]], split: bool
) -> Record:
    if list(pids) != [record.pid]:
        return record._replace(outcome=WRONG_BODY, phase="app", detail=f"from {record.pid}, executed by {list(pids)}")
    number = int(record.generation) if record.generation.isdecimal() else 0
    generation = [life for life in generations.get((record.service, number), ()) if life.end >= record.sent - SLACK]
    # A worker that is asked to leave while it starts may serve all the same: it is of a generation that is in service.
    live = any(life.ready <= record.done + SLACK for life in generation)
    if live and (split or any(life.pid == record.pid for life in generation)):
        return record
    return record._replace(
        outcome=NEVER_LIVE, phase="app", detail=f"pid {record.pid}, generation {record.generation}, {record.code}"
    )


def _inside(record: Record, pids: Sequence[int], kill: Kill, split: frozenset[str]) -> bool:
    if record.service != kill.service or record.outcome not in BY_DEATH:
        return False
    if record.phase in ("connect", "idle") or not kill.start <= record.done <= kill.end + SLACK:
        return False
    return not pids or list(pids) == [kill.pid] or record.service in split


def floor_breaches(
    events: Iterable[Mapping[str, Any]], floors: Sequence[tuple[float, str, int]], killed: Iterable[int]
) -> list[str]:
    """Moments at which fewer workers were ready than promised.

    Args:
        events: transitions, in order.
        floors: (seconds since the epoch, service, floor from then on), in order.
        killed: pids that the driver has killed; each may be missing until it was replaced.
    """
    ready: dict[str, set[int]] = defaultdict(set)
    missing: Counter[str] = Counter()
    gone, found = set(killed), []
    for event in events:
        service, process = event["service"], event["process"]
        if process is None:
            continue
        if event["to"] == "READY":
            ready[service].add(process)
        elif process in ready[service]:
            ready[service].discard(process)
            if event["pid"] in gone:
                missing[service] += 1
            elif event["to"] == "EXITED":
                found.append(f"{service}: pid {event['pid']} ended unasked: {event['why']}")
        floor = next((n for at, name, n in reversed(floors) if name == service and at <= event["at"]), 0)
        if len(ready[service]) >= floor:
            missing[service] = 0
        elif len(ready[service]) + missing[service] < floor:
            found.append(
                f"{service}: {len(ready[service])} ready, floor {floor}, at revision {event['revision']}: "
                f"pid {event['pid']} {event['to']} {event['why']}"
            )
    return found


def shot(events: Iterable[Mapping[str, Any]], killed: Iterable[int]) -> list[str]:
    """Processes that did not leave when they were asked to, but were killed at the end of `stop_timeout`."""
    gone = set(killed)
    return [
        f"{event['service']}: pid {event['pid']} did not leave: {event['why']}"
        for event in events
        if event["to"] == "EXITED" and event["from"] == "KILLING" and event["pid"] not in gone
    ]


def mixed_generations(records: Iterable[Record], unpinned: Set[tuple[str, str]] = frozenset()) -> list[str]:
    """Generations that answered with more than one version of the code, though they are pinned."""
    codes = defaultdict(set)
    for record in records:
        if record.outcome == OK and (record.service, record.generation) not in unpinned:
            codes[record.service, record.generation].add(record.code)
    return [f"{name}: generation {n} answered with {sorted(c)}" for (name, n), c in codes.items() if len(c) > 1]


def table(verdicts: Iterable[Verdict]) -> list[str]:
    """Backend x kind: requests, ok, lost by name and phase, excepted, p99.9 and longest in milliseconds."""
    cells = defaultdict(list)
    for verdict in verdicts:
        cells[verdict.record.service, verdict.record.kind].append(verdict)
    lines = [
        f"{'backend':<25} {'kind':<14} {'requests':>8} {'ok':>7} {'excepted':>8} {'p99.9':>7} {'longest':>7}  lost"
    ]
    for (service, kind), cell in sorted(cells.items()):
        lost = Counter(f"{each.record.outcome} ({each.record.phase})" for each in cell if each.lost)
        times = sorted(1000 * (each.record.done - each.record.due) for each in cell if each.record.outcome == OK)
        high = times[min(len(times) - 1, int(len(times) * 0.999))] if times else math.nan
        lines.append(
            f"{service:<25} {kind:<14} {len(cell):>8} {len(times):>7} {sum(each.excepted for each in cell):>8} "
            f"{high:>7.0f} {times[-1] if times else math.nan:>7.0f}  "
            + (", ".join(f"{what} {count}" for what, count in lost.items()) or "0")
        )
    return lines
