"""plan() as long as new code has not shown that it serves: the generation before it fills every gap."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.unit.test_planner import WEB, R, S, X, seen, spawns, stops, views
from trapeze.lifecycle import LIVE, State
from trapeze.planner import Gate, Plan, Prepare, Rules, Seen, Spawn, StandIn, Stop, Want, plan, settled

OLD = StandIn(1, 2)
IMPORTING = Gate(steps_left=True, step_running=True, stand_in=OLD)
OPEN = Gate(stand_in=OLD)
WANT = Want(2, 2)


def fresh(*states: State, first: int = 50) -> list[Seen]:
    """Of the wanted generation."""
    return seen(*states, generation=2, first=first)


def spawned(made: Plan) -> list[tuple[int, int]]:
    """Index and generation of each."""
    return [(action.index, action.generation) for action in made.actions if isinstance(action, Spawn)]


@pytest.mark.parametrize(
    "gate",
    [
        IMPORTING,
        Gate(steps_left=True, stand_in=OLD),
        Gate(limit=0, retry_at=9.0, stand_in=OLD),
    ],
    ids=["import", "before the import", "backoff"],
)
def test_all_killed_while_new_ones_cannot_start(gate: Gate) -> None:
    """They come back, of the old generation, whatever the new one waits for; and that goes on."""
    made = plan([], WANT, Rules(), gate)

    assert spawned(made) == [(0, 1), (1, 1)]
    assert (Prepare() in made.actions) == (gate.steps_left and not gate.step_running)
    assert made.wake_at == gate.retry_at
    assert spawned(plan(seen(S, S), WANT, Rules(), gate)) == []
    assert stops(plan(seen(S, S), WANT, Rules(), gate)) == []


def test_one_killed_while_a_new_one_starts() -> None:
    """What only starts is no replacement for what served: it may import for a minute."""
    assert spawned(plan([seen(R, R)[1], *fresh(S)], WANT, Rules(), OPEN)) == [(0, 1)]
    assert spawned(plan(fresh(S), WANT, Rules(), OPEN)) == [(0, 1), (1, 1)]


def test_new_and_old_ones_at_once() -> None:
    """Nothing is there, all gates are open: as many new ones as a reload may start, and the old ones."""
    assert spawned(plan([], WANT, Rules(), OPEN)) == [(0, 2), (0, 1), (1, 1)]
    assert spawned(plan([], WANT, Rules(surge=0, unavailable=1), OPEN)) == [(0, 2), (0, 1)]


def test_the_new_code_serves() -> None:
    """From then on it is its own business: those that stood in and are not ready yet leave, new ones come."""
    made = plan([*seen(S, S), *fresh(R)], WANT, Rules(), OPEN)

    assert stops(made) == [1, 2]
    assert spawned(plan(fresh(R), WANT, Rules(), OPEN)) == [(1, 2)]


def test_the_new_code_served_and_cannot_be_started_now() -> None:
    """Its second worker crashed, a delay runs: the old ones that are killed meanwhile are replaced."""
    gate = Gate(limit=0, retry_at=9.0, stand_in=OLD)

    assert spawned(plan(fresh(R), WANT, Rules(), gate)) == [(1, 1)]
    assert plan([*fresh(R), seen(S, S)[1]], WANT, Rules(), gate) == Plan((), 9.0)
    assert plan([*fresh(R, S)], WANT, Rules(), gate) == Plan()


def test_scaled_up_meanwhile() -> None:
    """Those that are more are of the code that serves."""
    gate = replace(IMPORTING, stand_in=StandIn(1, 4))

    assert spawned(plan(seen(R, R), Want(4, 2), Rules(), gate)) == [(2, 1), (3, 1)]


@pytest.mark.parametrize("count", [1, 5])
def test_another_number_that_the_new_file_says(count: int) -> None:
    """It comes with the new code: until then as many as before."""
    assert plan(seen(R, R), Want(count, 2), Rules(), IMPORTING) == Plan()
    assert stops(plan([*seen(R, R), *fresh(S)], Want(count, 2), Rules(), OPEN)) == []
    assert spawned(plan(seen(R), Want(count, 2), Rules(), IMPORTING)) == [(1, 1)]


def test_scaled_down_meanwhile() -> None:
    made = plan(seen(R, R, R), WANT, Rules(), IMPORTING)

    assert [action.why for action in made.actions if isinstance(action, Stop)] == ["scaled to 2"]
    assert stops(made) == [3]
    assert stops(plan(seen(S, S, S), WANT, Rules(), IMPORTING)) == [3]


def test_recycled_meanwhile() -> None:
    """Make before break, and by its own kind: the import may take long."""
    tired, other = seen(R, R)
    tired = replace(tired, recycle="is old")

    assert spawned(plan([tired, other], WANT, Rules(), IMPORTING)) == [(0, 1)]
    assert plan([tired, other, Seen(9, 0, 1, S, 9.0)], WANT, Rules(), IMPORTING) == Plan()
    made = plan([other, tired, Seen(9, 0, 1, R, 9.0)], WANT, Rules(), IMPORTING)
    assert made.actions == (Stop(1, "recycled: is old"),)


def test_no_room_is_made_before_it_can_be_taken() -> None:
    """max_unavailable lets an old one go before the new one is there, but not before that can start."""
    rules = Rules(surge=0, unavailable=1)

    assert plan(seen(R, R), WANT, rules, IMPORTING) == Plan()
    assert plan(seen(R, R), WANT, rules, OPEN).actions == (Stop(1, "superseded by generation 2"),)
    assert spawned(plan(seen(R), WANT, rules, OPEN)) == [(0, 2)]
    assert plan([*seen(R), *fresh(S)], WANT, rules, OPEN) == Plan()


def test_the_old_ones_fail_as_well() -> None:
    """They have delays of their own."""
    gate = replace(IMPORTING, stand_in=StandIn(1, 2, retry_at=7.0))

    assert plan([], WANT, Rules(), gate) == Plan((), 7.0)
    assert plan([], WANT, Rules(), replace(gate, limit=0, retry_at=5.0)) == Plan((), 5.0)
    assert plan(seen(R, R), WANT, Rules(), gate) == Plan()


def test_older_ones_do_not_stand_in() -> None:
    """Unready ones of a generation before the last good one leave, as ever."""
    view = [*seen(S, generation=0), *seen(R, R, first=10)]

    assert stops(plan(view, WANT, Rules(), IMPORTING)) == [1]


def test_the_one_that_shows_that_new_code_serves_is_replaced_last() -> None:
    """Without it nothing would show that the code serves, and the floor would be that of the generation before."""
    view = [replace(each, retire=True) for each in seen(R, generation=3)] + seen(R, R, generation=1, first=10)
    gate = Gate(stand_in=StandIn(generation=2, count=1))
    after = settled_view(view, Want(3, 3), Rules(surge=0, unavailable=1), gate)

    assert [(each.id, each.generation, each.state) for each in after] == [
        (1, 3, R),
        (10, 1, X),
        (11, 1, R),
        (100, 3, S),
    ]


def test_a_service_that_must_not_overlap_has_none() -> None:
    assert spawns(plan([], WANT, Rules(exclusive=True), IMPORTING)) == []


# ---- properties: 3 is wanted, 2 is the last good one ----

STAND_INS = st.builds(StandIn, generation=st.just(2), count=st.integers(1, 5), retry_at=st.sampled_from([None, 5.0]))
GATES = st.builds(
    Gate,
    open=st.just(True),
    limit=st.sampled_from([None, 0, 1]),
    retry_at=st.just(5.0),
    finished=st.just(frozenset[int]()),
    steps_left=st.booleans(),
    step_running=st.booleans(),
    stand_in=STAND_INS,
)
WANTS = st.builds(Want, count=st.integers(1, 5), generation=st.just(3))


def applied(view: list[Seen], made: Plan, ids: itertools.count[int]) -> list[Seen]:
    """The view after these actions."""
    leaving = set(stops(made))
    view = [replace(each, state=X) if each.id in leaving else each for each in view]
    for action in made.actions:
        if isinstance(action, Spawn):
            view.append(Seen(next(ids), action.index, action.generation, S, 99.0))
    return view


def settled_view(view: list[Seen], want: Want, rules: Rules, gate: Gate) -> list[Seen]:
    """What one reaction of a service makes of it: it asks until there is nothing more to do."""
    ids = itertools.count(100)
    for _ in range(50):
        made = plan(view, want, rules, gate)
        if not [action for action in made.actions if not isinstance(action, Prepare)]:
            return view
        view = applied(view, made, ids)
    raise AssertionError("there is no end")


def count(view: list[Seen], *states: State, generation: int | None = None) -> int:
    return sum(each.state in states and generation in (None, each.generation) for each in view)


@settings(max_examples=500)
@given(views(), WANTS, WEB, GATES)
def test_never_below_the_floor_while_a_good_generation_is_there(
    view: list[Seen], want: Want, rules: Rules, gate: Gate
) -> None:
    """Whatever has crashed: after one reaction as many are ready or starting as must serve.

    And as long as the new code has not served, those of it that only start are not among them.
    """
    stand_in = gate.stand_in
    assert stand_in is not None
    gate = replace(gate, stand_in=replace(stand_in, retry_at=None))
    serves = count(view, R, generation=3) > 0
    trusted = serves and not gate.blocked and gate.limit is None
    floor = max(0, (want.count if serves else stand_in.count) - rules.unavailable)
    candidates = sum(each.generation == 3 and each.state is S for each in view)
    crowded = not serves and candidates > rules.surge + rules.unavailable

    after = settled_view(view, want, rules, gate)

    if not (serves and gate.limit == 1):
        assert count(after, R, S) >= floor
    if not trusted and not serves and not crowded:
        assert count(after, R) + count(after, S, generation=2) >= floor


@settings(max_examples=500)
@given(views(), WANTS, WEB, GATES)
def test_safety_of_a_trial(view: list[Seen], want: Want, rules: Rules, gate: Gate) -> None:
    """Only what must go is stopped, never below the floor; never above the ceiling; no slot twice; no more tries."""
    stand_in = gate.stand_in
    assert stand_in is not None
    serves = count(view, R, generation=3) > 0
    floor = (want.count if serves else stand_in.count) - rules.unavailable
    made = plan(view, want, rules, gate)
    live = [each for each in view if each.state in LIVE]
    by_id = {each.id: each for each in view}
    stopped = [by_id[id] for id in stops(made)]

    assert count(live, R) - count(stopped, R) >= min(count(live, R), floor)
    if spawned(made):
        assert len(live) + len(spawned(made)) <= max(want.count, stand_in.count) + rules.surge
    assert len(set(spawned(made))) == len(spawned(made))
    assert {generation for _, generation in spawned(made)} <= {2, 3}
    new = [index for index, generation in spawned(made) if generation == 3]
    assert not new or not gate.blocked
    assert gate.limit is None or len(new) <= gate.limit
    if not serves and new:
        assert (
            count(live, S, generation=3) - count(stopped, S, generation=3) + len(new) <= rules.surge + rules.unavailable
        )
    standing = [index for index, generation in spawned(made) if generation == 2]
    assert not standing or stand_in.retry_at is None
    assert all(index < max(want.count, stand_in.count) for index in standing)


@settings(max_examples=300)
@given(views(), WANTS, WEB, st.integers(1, 5))
def test_a_trial_comes_to_its_end(view: list[Seen], want: Want, rules: Rules, old: int) -> None:
    """If what is started becomes ready, and what is stopped goes, the new ones are there and nothing else."""
    gate = Gate(stand_in=StandIn(2, old))
    for _ in range(60):
        view = settled_view(view, want, rules, gate)
        if all(each.state is R for each in view):
            break
        view = [replace(each, state=R) if each.state is S else each for each in view if each.state in LIVE]

    assert settled(view, want)
    assert len(view) == want.count


@settings(max_examples=300)
@given(views(), WANTS, WEB, st.integers(1, 5))
def test_a_trial_that_fails_leaves_the_old_ones_whole(view: list[Seen], want: Want, rules: Rules, old: int) -> None:
    """If no new one ever becomes ready: all the old ones, as many as there were to be."""
    view = [each for each in view if each.generation != 3]
    gate = Gate(stand_in=StandIn(2, old))
    for _ in range(30):
        view = settled_view(view, want, rules, gate)
        view = [each for each in view if each.generation != 3 and each.state in LIVE]
        view = [replace(each, state=R) for each in view]

    assert count(view, R) >= old - rules.unavailable
    settled_by_itself = settled_view(view, want, rules, replace(gate, steps_left=True))
    assert old <= count(settled_by_itself, R, S) <= old + rules.surge
