"""plan(): from what there is and what is wanted to what to do next. Pure.

Rolling is Kubernetes' arithmetic (`pkg/controller/deployment/rolling.go`). With 4 workers, max_surge 1 and
max_unavailable 0:

    ceiling = 4 + 1 = 5     live processes (starting and ready; those on their way out do not count)
    floor   = 4 - 0 = 4     ready processes, whatever their generation

    4 old ready                    room 5 - 4 = 1   -> spawn 1 new
    4 old ready, 1 new starting    room 0, 4 ready  -> nothing
    4 old ready, 1 new ready       5 ready > 4      -> stop an old one: of the same slot, else the oldest
    3 old ready, 1 new ready       room 1           -> spawn the next

Each call takes one small step and is right whatever happened before it: a scale, a crash or a second reload in the
middle of a reload is just another view. A service that must not overlap itself (a command without a socket of ours: two
Redis on one port) has a ceiling without surge that counts the leaving ones too, and a floor of nothing.

As long as the new code has not shown that it serves, or cannot be started just now, gaps are not its business: what is
missing to the floor is filled up with workers of the generation that served before (`StandIn`), which need wait neither
for an import of the new code nor for its delays. With 2 workers:

    2 old ready, import going on        nothing
    0 old, import going on              -> spawn 2 old
    2 old starting, import done         -> spawn 1 new
    2 old starting, 1 new ready         the code serves: -> stop the 2 old ones, spawn 1 new
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct
from msgspec.structs import replace

from trapeze.lifecycle import LIVE, State

__all__ = [
    "Action",
    "Gate",
    "Plan",
    "Prepare",
    "Rules",
    "Seen",
    "Spawn",
    "StandIn",
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


class Rules(Struct, frozen=True):
    """How a service may be changed."""

    surge: int = 1
    unavailable: int = 0
    exclusive: bool = False
    """Never two at once in one slot: stop first, start then."""


class StandIn(Struct, frozen=True):
    """The generation that served before, as long as another one is wanted."""

    generation: int
    count: int
    """How many of it were wanted."""
    retry_at: float | None = None
    """It fails as well: no spawn before this time, monotonic seconds."""


class Gate(Struct, frozen=True):
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
    stand_in: StandIn | None = None

    @property
    def blocked(self) -> bool:
        """Is there no way to a process of the wanted generation now?"""
        return not self.open or self.steps_left or self.limit == 0


class Spawn(Struct, frozen=True):
    """Start one process."""

    index: int
    generation: int


class Stop(Struct, frozen=True):
    """Ask one process to leave."""

    id: int
    why: str


class Prepare(Struct, frozen=True):
    """Run the next pre_start command of the wanted generation."""


Action = Spawn | Stop | Prepare


class Plan(Struct, frozen=True):
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
    missing = _missing(view, want, rules, gate)
    if gate.stand_in is not None and not rules.exclusive and (gate.blocked or not _serves(live, want)):
        stops, spawns, due = _guarded(live, want, rules, gate, gate.stand_in, missing)
    else:
        stops, spawns = _rolled(view, live, want, rules, gate, missing)
        due = None
    if not missing or not gate.open:
        return Plan((*stops, *spawns), due)
    if gate.limit == 0:
        return Plan((*stops, *spawns), min((at for at in (gate.retry_at, due) if at is not None), default=None))
    if gate.steps_left and not gate.step_running:
        return Plan((*stops, *spawns, Prepare()), due)
    return Plan((*stops, *spawns), due)


def _serves(live: Iterable[Seen], want: Want) -> bool:
    """Has the wanted generation shown that it can serve?"""
    return any(seen.generation == want.generation and seen.state is State.READY for seen in live)


def _rolled(
    view: Sequence[Seen], live: Sequence[Seen], want: Want, rules: Rules, gate: Gate, missing: Sequence[int]
) -> tuple[Sequence[Stop], Sequence[Spawn]]:
    """From the old ones to the new ones, which serve."""
    old = [seen for seen in live if outdated(seen, want)]
    present = [seen for seen in view if seen.state is not State.EXITED] if rules.exclusive else live
    ceiling = want.count if rules.exclusive or not old else want.count + rules.surge
    room = max(0, ceiling - len(present)) if not gate.blocked else 0
    if gate.limit is not None:
        room = min(room, gate.limit)
    return _stops(live, old, want, rules), [Spawn(index, want.generation) for index in missing[:room]]


def _guarded(
    live: Sequence[Seen], want: Want, rules: Rules, gate: Gate, stand_in: StandIn, missing: Sequence[int]
) -> tuple[Sequence[Stop], Sequence[Spawn], float | None]:
    """The first of the new ones beside the old ones, which stay whole; and when that may be different."""
    serves = _serves(live, want)
    old_want = Want(want.count if serves else stand_in.count, stand_in.generation)
    fresh = [seen for seen in live if not outdated(seen, want)]
    try_it = bool(missing) and not gate.blocked
    if not fresh and not try_it:
        rules = replace(rules, unavailable=0)  # no old one makes room for new ones before these could take it
    floor = _floor(old_want, rules)
    sure = [seen for seen in live if _is_sure(seen, want, stand_in, serves)]
    steady = [seen for seen in sure if seen.state is State.READY or seen.generation == want.generation]
    kept = [seen for seen in sure if seen not in steady][: max(0, floor - len(steady))]
    gone = [seen for seen in live if outdated(seen, want) and seen not in kept]
    stops = _stops(live, gone, want, rules, old_want)

    room = rules.surge + old_want.count - len(live)
    serving = sum(seen.state is State.READY for seen in live)
    gap = max(0, floor - serving - len(kept))
    # So there are never more of the new ones, as long as these do not serve, than surge and unavailable say.
    new = min([max(0, room - gap), *([] if gate.limit is None else [gate.limit])]) if try_it else 0
    spawns = [Spawn(index, want.generation) for index in missing[:new]]
    short = floor - len(steady) - len(kept)
    if short <= 0 or not gate.open:
        return stops, spawns, None
    if stand_in.retry_at is not None:
        return stops, spawns, stand_in.retry_at
    taken = {seen.index for seen in (*steady, *kept)}
    free = [index for index in range(old_want.count) if index not in taken]
    spawns += [Spawn(index, stand_in.generation) for index in free[: min(short, max(0, room - len(spawns)))]]
    return stops, spawns, None


def _is_sure(seen: Seen, want: Want, stand_in: StandIn, serves: bool) -> bool:
    """Does it count, or will it soon? Those of new code that has not served yet do not, nor those to be replaced."""
    if seen.retire or seen.recycle:
        return False
    ours = seen.generation == stand_in.generation or (serves and seen.generation == want.generation)
    return seen.state is State.READY or ours


def _floor(want: Want, rules: Rules) -> int:
    return max(0, want.count - rules.unavailable)


def _missing(view: Iterable[Seen], want: Want, rules: Rules, gate: Gate) -> list[int]:
    """Indexes that have no process of the wanted kind, lowest first."""
    if rules.exclusive:
        taken = {seen.index for seen in view if seen.state is not State.EXITED}
    else:
        taken = {seen.index for seen in view if seen.state in LIVE and not outdated(seen, want)}
    return [index for index in range(want.count) if index not in taken and index not in gate.finished]


def _stops(
    live: Sequence[Seen], old: Sequence[Seen], want: Want, rules: Rules, old_want: Want | None = None
) -> tuple[Stop, ...]:
    """Which outdated processes can leave now without going below the floor.

    With `old_want` those that are not outdated by that either go last: they may have to serve on.
    """
    first = old_want or want
    # Unready ones cost nothing: they serve nobody, and their memory makes room for the right ones.
    leaving = [seen for seen in old if seen.state is not State.READY]
    serving = sorted((seen for seen in old if seen.state is State.READY), key=lambda seen: (seen.since, seen.id))
    # Those of new code last: they show that it serves, and without that other rules hold. Before them those of the same
    # slot as a new one, if there are such: it accepts where nobody else may (`listen = "per-worker"`).
    covered = {seen.index for seen in live if seen.state is State.READY and not outdated(seen, want)}
    serving.sort(
        key=lambda seen: (not outdated(seen, first), seen.generation == want.generation, seen.index not in covered)
    )
    if rules.exclusive:
        spare = len(serving)
    else:
        ready = sum(seen.state is State.READY for seen in live)
        spare = max(0, ready - _floor(first, rules))
    return tuple(
        Stop(seen.id, _why(seen, first if outdated(seen, first) else want)) for seen in (*leaving, *serving[:spare])
    )


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
