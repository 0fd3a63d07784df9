"""plan(): from what there is and what is wanted to what to do next. Pure.

Rolling is Kubernetes' arithmetic (`pkg/controller/deployment/rolling.go`). With 4 workers, max_surge 1 and
max_unavailable 0:

    ceiling = 4 + 1 = 5     live processes (starting and ready; those on their way out do not count)
    floor   = 4 - 0 = 4     ready processes, whatever their generation

    4 old ready                    room 5 - 4 = 1   -> spawn 1 new
    4 old ready, 1 new starting    room 0, 4 ready  -> nothing
    4 old ready, 1 new ready       5 ready > 4      -> stop the oldest old one
    3 old ready, 1 new ready       room 1           -> spawn the next

Each call takes one small step and is right whatever happened before it: a scale, a crash or a second reload in the
middle of a reload is just another view. A service that must not overlap itself (a command without a socket of ours: two
Redis on one port) has a ceiling without surge that counts the leaving ones too, and a floor of nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from msgspec import Struct

from trapeze.lifecycle import LIVE, State

__all__ = [
    "Action",
    "Gate",
    "Plan",
    "Prepare",
    "Rules",
    "Seen",
    "Spawn",
    "Stop",
    "Want",
    "outdated",
    "pace",
    "plan",
    "settled",
    "unwanted",
]


class Want(Struct, frozen=True):
    """What a service should be."""

    count: int
    generation: int
    enabled: bool = True


class Seen(Struct, frozen=True):
    """One process as the planner sees it."""

    id: int
    index: int
    generation: int
    state: State
    since: float
    """When the state was entered, monotonic seconds."""
    retire: bool = False
    """To be replaced although its generation is right (restart, recycling)."""
    accepting: bool = False
    """On its way out, but it has not said yet that it has heard so: a request may still go to it."""
    recycle: str = ""
    """Why it is to be replaced although it serves well (it has served or used enough); empty if it is not."""


class Rules(NamedTuple):
    """How a service may be changed."""

    surge: int = 1
    unavailable: int = 0
    exclusive: bool = False
    """Never two at once in one slot: stop first, start then."""


class Gate(NamedTuple):
    """What spawning has to wait for."""

    open: bool = True
    """The services named in `after` are ready."""
    limit: int | None = None
    """How many may be spawned now; None: as many as are missing."""
    retry_at: float | None = None
    """When `limit` may be different, monotonic seconds."""
    finished: frozenset[int] = frozenset()
    """Indexes of tasks that ran to their end in this generation."""
    steps_left: bool = False
    """pre_start commands of this generation have still to run."""
    step_running: bool = False


class Spawn(Struct, frozen=True):
    """Start one process of the wanted generation."""

    index: int


class Stop(NamedTuple):
    """Ask one process to leave."""

    id: int
    why: str


class Prepare(NamedTuple):
    """Run the next pre_start command of the wanted generation."""


Action = Spawn | Stop | Prepare


class Plan(NamedTuple):
    """What to do now, and when to ask again if nothing happens before."""

    actions: tuple[Action, ...] = ()
    wake_at: float | None = None


def outdated(seen: Seen, want: Want) -> bool:
    """Is this a process that has to go, sooner or later?"""
    return bool(seen.recycle) or unwanted(seen, want)


def unwanted(seen: Seen, want: Want) -> bool:
    """Is this another process than what is wanted? (One that is being recycled is as good as the one after it.)"""
    return not want.enabled or seen.generation != want.generation or seen.retire or seen.index >= want.count


HEAD_START = 0.1
"""Seconds that the first workers of an app have to themselves at the very first start."""


def pace(starting: int, processors: int, now: float, begun: float | None) -> tuple[int | None, float | None]:
    """How many workers may be spawned at the first start of an app, and when there is more to say.

    Importing an app and its server is all processor time. Four workers at once on two processors are all ready after
    two rounds; two first are ready after one, and the site answers then. Nobody is held back for longer than
    HEAD_START: where imports wait for something else than the processor, all may as well wait together.

    Args:
        starting: workers that are on their way.
        processors: that we may use.
        now: monotonic seconds.
        begun: when the first one was spawned; None before that.
    """
    if begun is not None and now >= begun + HEAD_START:
        return None, None
    return max(0, processors - starting), None if begun is None else begun + HEAD_START


def plan(view: Sequence[Seen], want: Want, rules: Rules, gate: Gate) -> Plan:
    """Return the next small step from `view` towards `want`."""
    live = [seen for seen in view if seen.state in LIVE]
    if not want.enabled or want.count == 0:
        why = "the service is stopped" if not want.enabled else "scaled to 0"
        return Plan(tuple(Stop(seen.id, why) for seen in live))
    old = [seen for seen in live if outdated(seen, want)]
    stops = _stops(live, old, want, rules)
    missing = _missing(view, want, rules, gate)
    if not missing or not gate.open:
        return Plan(stops)
    if gate.limit == 0:
        return Plan(stops, gate.retry_at)
    if gate.steps_left:
        return Plan(stops if gate.step_running else (*stops, Prepare()))
    present = [seen for seen in view if seen.state is not State.EXITED] if rules.exclusive else live
    ceiling = want.count if rules.exclusive or not old else want.count + rules.surge
    room = max(0, ceiling - len(present))
    if gate.limit is not None:
        room = min(room, gate.limit)
    return Plan((*stops, *(Spawn(index) for index in missing[:room])))


def _missing(view: Iterable[Seen], want: Want, rules: Rules, gate: Gate) -> list[int]:
    """Indexes that have no process of the wanted kind, lowest first."""
    if rules.exclusive:
        taken = {seen.index for seen in view if seen.state is not State.EXITED}
    else:
        taken = {seen.index for seen in view if seen.state in LIVE and not outdated(seen, want)}
    return [index for index in range(want.count) if index not in taken and index not in gate.finished]


def _stops(live: Sequence[Seen], old: Sequence[Seen], want: Want, rules: Rules) -> tuple[Stop, ...]:
    """Which outdated processes can leave now without going below the floor."""
    # Unready ones cost nothing: they serve nobody, and their memory makes room for the right ones.
    leaving = [seen for seen in old if seen.state is not State.READY]
    serving = sorted((seen for seen in old if seen.state is State.READY), key=lambda seen: (seen.since, seen.id))
    if rules.exclusive:
        spare = len(serving)
    else:
        ready = sum(seen.state is State.READY for seen in live)
        spare = max(0, ready - max(0, want.count - rules.unavailable))
    return tuple(Stop(seen.id, _why(seen, want)) for seen in (*leaving, *serving[:spare]))


def _why(seen: Seen, want: Want) -> str:
    if seen.generation != want.generation:
        return f"superseded by generation {want.generation}"
    if seen.retire:
        return "to be replaced"
    return f"recycled: {seen.recycle}" if seen.recycle else f"scaled to {want.count}"


def settled(view: Sequence[Seen], want: Want, finished: frozenset[int] = frozenset()) -> bool:
    """Is what is wanted so? All new ones ready (or run to their end), and no outdated one accepts any more."""
    live = [seen for seen in view if seen.state in LIVE]
    if not want.enabled or want.count == 0:
        return not live
    if any(unwanted(seen, want) for seen in live) or any(seen.accepting for seen in view):
        return False
    ready = {seen.index for seen in live if seen.state is State.READY}
    return all(index in ready or index in finished for index in range(want.count))
