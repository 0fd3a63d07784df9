"""plan(): worked cases, and properties that hold for every view; a small model runs plans to their end."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from trapeze.lifecycle import LIVE, State
from trapeze.planner import (
    HEAD_START,
    Gate,
    Plan,
    Prepare,
    Rules,
    Seen,
    Spawn,
    Stop,
    Want,
    outdated,
    pace,
    plan,
    settled,
)

R, S, X, K = State.READY, State.STARTING, State.STOPPING, State.KILLING


def seen(*states: State, generation: int = 1, first: int = 1, since: float = 0.0) -> list[Seen]:
    return [Seen(first + n, n, generation, state, since + n) for n, state in enumerate(states)]


def stops(made: Plan) -> list[int]:
    return [action.id for action in made.actions if isinstance(action, Stop)]


def spawns(made: Plan) -> list[int]:
    return [action.index for action in made.actions if isinstance(action, Spawn)]


def test_first_start() -> None:
    """Nothing there: all at once, surge or not."""
    made = plan([], Want(4, 1), Rules(), Gate())

    assert spawns(made) == [0, 1, 2, 3]
    assert stops(made) == []


def test_all_there() -> None:
    """What is wanted is so: nothing to do."""
    assert plan(seen(R, R), Want(2, 1), Rules(), Gate()) == Plan()


def test_replaces_the_missing_index() -> None:
    """The slot that is free is the one that is filled."""
    view = [Seen(1, 0, 1, R, 0.0), Seen(3, 2, 1, R, 0.0)]

    assert spawns(plan(view, Want(3, 1), Rules(), Gate())) == [1]


def test_leaving_ones_do_not_hold_their_slot() -> None:
    """Web services: a draining worker's index is free, and it does not count against the ceiling."""
    assert spawns(plan(seen(X, R), Want(2, 1), Rules(), Gate())) == [0]
    assert spawns(plan(seen(K, K), Want(2, 1), Rules(), Gate())) == [0, 1]


def test_stopped() -> None:
    """Not enabled: everything that lives is asked to leave, nothing is spawned."""
    made = plan(seen(R, S, X), Want(3, 1, enabled=False), Rules(), Gate())

    assert stops(made) == [1, 2]
    assert spawns(made) == []


def test_rolling_walk() -> None:
    """The walk in the module's docstring, with 4 workers."""
    want, rules, gate = Want(4, 2), Rules(), Gate()
    old = seen(R, R, R, R)
    new = Seen(9, 0, 2, S, 9.0)

    assert spawns(plan(old, want, rules, gate)) == [0]
    assert stops(plan(old, want, rules, gate)) == []
    assert plan([*old, new], want, rules, gate) == Plan()
    assert stops(plan([*old, replace(new, state=R)], want, rules, gate)) == [1]
    assert spawns(plan([*old[1:], replace(new, state=R)], want, rules, gate)) == [1]


def test_oldest_first() -> None:
    """Who has been ready longest leaves first."""
    view = [Seen(1, 0, 1, R, 5.0), Seen(2, 1, 1, R, 3.0), Seen(3, 2, 2, R, 9.0)]

    assert stops(plan(view, Want(3, 2), Rules(unavailable=1), Gate())) == [2]


def test_who_has_a_successor_in_its_slot_leaves_before_the_oldest() -> None:
    """Where each slot has a socket of its own, nobody else accepts on that of the other one."""
    view = [Seen(1, 0, 1, R, 5.0), Seen(2, 1, 1, R, 3.0), Seen(3, 0, 2, R, 9.0)]

    assert stops(plan(view, Want(2, 2), Rules(), Gate())) == [1]


def test_unready_old_ones_leave_first() -> None:
    """An old process that is not ready serves nobody."""
    view = [*seen(R, S), Seen(9, 0, 2, S, 9.0)]

    assert stops(plan(view, Want(2, 2), Rules(), Gate())) == [2]


def test_max_unavailable() -> None:
    """With a lower floor an old one may leave before a new one is ready."""
    made = plan(seen(R, R), Want(2, 2), Rules(surge=0, unavailable=1), Gate())

    assert stops(made) == [1]
    assert spawns(made) == []


def test_surge_of_two() -> None:
    """So many more than wanted while rolling."""
    assert spawns(plan(seen(R, R, R, R), Want(4, 2), Rules(surge=2), Gate())) == [0, 1]


def test_scale_down_keeps_the_floor() -> None:
    """Indexes beyond the count leave, but not before enough others are ready."""
    assert stops(plan(seen(R, R, R, R), Want(2, 1), Rules(), Gate())) == [3, 4]
    assert stops(plan(seen(S, S, R, R), Want(2, 1), Rules(), Gate())) == []
    assert stops(plan(seen(R, S, R, R), Want(2, 1), Rules(), Gate())) == [3]


def test_retired_ones_are_replaced() -> None:
    """Restart of one process: its replacement comes first."""
    view = seen(R, R)
    retiring = [replace(view[0], retire=True), view[1]]

    assert spawns(plan(retiring, Want(2, 1), Rules(), Gate())) == [0]
    assert stops(plan(retiring, Want(2, 1), Rules(), Gate())) == []


def test_exclusive_stops_first() -> None:
    """Redis: the old one goes, and only when it is gone the new one comes."""
    want, rules = Want(1, 2), Rules(exclusive=True)

    made = plan(seen(R), want, rules, Gate())
    assert (stops(made), spawns(made)) == ([1], [])
    assert plan(seen(X), want, rules, Gate()) == Plan()
    assert plan(seen(K), want, rules, Gate()) == Plan()
    assert plan([Seen(1, 5, 1, X, 0.0)], want, rules, Gate()) == Plan(), "also in a slot that is not wanted any more"
    assert spawns(plan([], want, rules, Gate())) == [0]


def test_closed_gate() -> None:
    """Who waits for others spawns nothing, but outdated ones may leave."""
    assert plan([], Want(2, 1), Rules(), Gate(open=False)) == Plan()
    assert stops(plan(seen(S), Want(1, 2), Rules(), Gate(open=False))) == [1]


def test_backoff() -> None:
    """No spawn before the time, and the planner says when to ask again; nothing missing, nothing to wait for."""
    assert plan([], Want(2, 1), Rules(), Gate(limit=0, retry_at=7.5)) == Plan((), 7.5)
    assert plan(seen(R, R), Want(2, 1), Rules(), Gate(limit=0, retry_at=7.5)) == Plan()


def test_single_try() -> None:
    """After giving up: one."""
    assert spawns(plan([], Want(4, 1), Rules(), Gate(limit=1))) == [0]


def test_finished_tasks_stay_finished() -> None:
    """A task that ran to its end is not run again."""
    assert spawns(plan([], Want(2, 1), Rules(exclusive=True), Gate(finished=frozenset({0})))) == [1]


def test_pre_start_comes_first() -> None:
    """The steps run one after the other, and before any worker."""
    assert plan([], Want(2, 1), Rules(), Gate(steps_left=True)).actions == (Prepare(),)
    assert plan([], Want(2, 1), Rules(), Gate(steps_left=True, step_running=True)) == Plan()
    assert plan(seen(R, R), Want(2, 1), Rules(), Gate(steps_left=True)) == Plan()


@pytest.mark.parametrize("why", ["generation", "index", "retire", "disabled"])
def test_outdated(why: str) -> None:
    """The four ways to have to go."""
    process = Seen(1, 0, 1, R, 0.0)
    cases = {
        "generation": (process, Want(1, 2)),
        "index": (replace(process, index=1), Want(1, 1)),
        "retire": (replace(process, retire=True), Want(1, 1)),
        "disabled": (process, Want(1, 1, enabled=False)),
    }

    assert not outdated(process, Want(1, 1))
    assert outdated(*cases[why])


def test_settled() -> None:
    """All new ones ready and no old one accepting; leaving ones do not matter."""
    assert settled(seen(R, R), Want(2, 1))
    assert settled([*seen(R, R), Seen(9, 0, 0, X, 0.0)], Want(2, 1))
    assert not settled(seen(R, S), Want(2, 1))
    assert not settled([*seen(R, R), Seen(9, 0, 0, R, 0.0)], Want(2, 1))
    assert not settled(seen(R), Want(2, 1))
    assert settled(seen(R), Want(2, 1), frozenset({1}))
    assert settled(seen(X), Want(2, 1, enabled=False))
    assert not settled(seen(R), Want(2, 1, enabled=False))
    assert not settled(seen(R), Want(0, 1))


def test_settled_waits_for_the_old_one_to_hear() -> None:
    """A worker that was asked to leave and has not said that it has heard may still be given a request."""
    deaf = Seen(9, 0, 0, X, 0.0, accepting=True)

    assert not settled([*seen(R, R), deaf], Want(2, 1))
    assert settled([*seen(R, R), replace(deaf, accepting=False)], Want(2, 1))


def test_pace() -> None:
    """As many as there are processors, until the head start is over."""
    assert pace(0, 2, 5.0, None) == (2, None)
    assert pace(2, 2, 5.0, 5.0) == (0, 5.0 + HEAD_START)
    assert pace(1, 2, 5.0, 5.0) == (1, 5.0 + HEAD_START)
    assert pace(3, 2, 5.0, 5.0) == (0, 5.0 + HEAD_START)
    assert pace(2, 2, 5.0 + HEAD_START, 5.0) == (None, None)


# ---- properties ----

STATES = st.sampled_from([S, R, X, K])
WANTS = st.builds(Want, count=st.integers(0, 5), generation=st.just(3), enabled=st.booleans())
WEB = st.builds(Rules, surge=st.integers(0, 3), unavailable=st.integers(0, 3), exclusive=st.just(False)).filter(
    lambda rules: rules.surge + rules.unavailable
)
SIDE = st.just(Rules(exclusive=True))


@st.composite
def views(draw: st.DrawFn, *, exclusive: bool = False) -> list[Seen]:
    """Views that can come to be: at most one fresh process per index (and one at all, if exclusive)."""
    count = draw(st.integers(0, 8))
    taken: set[tuple[int, int] | int] = set()
    view = []
    for id in range(1, count + 1):
        index, generation, state = draw(st.integers(0, 6)), draw(st.integers(1, 3)), draw(STATES)
        slot: tuple[int, int] | int = index if exclusive else (index, generation)
        if slot in taken and (exclusive or state in LIVE):
            continue
        taken.add(slot)
        view.append(Seen(id, index, generation, state, float(draw(st.integers(0, 9))), draw(st.booleans())))
    return view


GATES = st.builds(
    Gate,
    open=st.booleans(),
    limit=st.sampled_from([None, 0, 1]),
    retry_at=st.just(5.0),
    steps_left=st.booleans(),
    step_running=st.booleans(),
    stand_in=st.none(),
)


@given(views(), WANTS, WEB, GATES)
def test_safety(view: list[Seen], want: Want, rules: Rules, gate: Gate) -> None:
    """For every view: only outdated ones are stopped, never below the floor, never above the ceiling, no slot twice."""
    made = plan(view, want, rules, gate)
    by_id = {process.id: process for process in view}
    live = [process for process in view if process.state in LIVE]
    stopped = [by_id[id] for id in stops(made)]
    active = want.enabled and want.count > 0

    assert all(process.state in LIVE for process in stopped)
    assert len(set(stops(made))) == len(stops(made))
    if active:
        assert all(outdated(process, want) for process in stopped)
        ready = sum(process.state is R for process in live)
        left = ready - sum(process.state is R for process in stopped)
        assert left >= min(ready, want.count - rules.unavailable)
    else:
        assert spawns(made) == []
        assert {process.id for process in live} == set(stops(made))
    if spawns(made):
        assert len(live) + len(spawns(made)) <= want.count + rules.surge
        assert gate.open and gate.limit != 0 and not gate.steps_left
        fresh = {process.index for process in live if not outdated(process, want)}
        assert fresh.isdisjoint(spawns(made))
        assert len(set(spawns(made))) == len(spawns(made))
        assert all(index < want.count for index in spawns(made))
    if gate.limit is not None:
        assert len(spawns(made)) <= gate.limit


@given(views(exclusive=True), WANTS, GATES)
def test_exclusive_never_overlaps(view: list[Seen], want: Want, gate: Gate) -> None:
    """No slot of a side service ever has two processes, leaving ones included."""
    made = plan(view, want, Rules(exclusive=True), gate)

    taken = {process.index for process in view}
    assert taken.isdisjoint(spawns(made))
    if spawns(made):
        assert len(view) + len(spawns(made)) <= want.count


@settings(max_examples=300)
@given(st.data(), WANTS, st.one_of(WEB, SIDE))
def test_converges(data: st.DataObject, want: Want, rules: Rules) -> None:
    """From every view, if what is started becomes ready and what is stopped goes, the plan comes to its end."""
    view = data.draw(views(exclusive=rules.exclusive))
    ids = itertools.count(100)
    for round_ in range(60):
        made = plan(view, want, rules, Gate())
        for action in made.actions:
            if isinstance(action, Spawn):
                assert action.generation == want.generation
                view.append(Seen(next(ids), action.index, want.generation, S, float(round_)))
            elif isinstance(action, Stop):
                view = [replace(p, state=X) if p.id == action.id else p for p in view]
        if not made.actions and not any(p.state is not R for p in view):
            break
        view = [replace(p, state=R) if p.state is S else p for p in view if p.state not in (X, K)]

    assert settled(view, want)
    assert len(view) == (want.count if want.enabled else 0)
    assert plan(view, want, rules, Gate()) == Plan()
