"""The state table: total, and each rule that somebody relies on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trapeze.errors import IllegalTransition
from trapeze.lifecycle import LIVE, TABLE, Effect, Event, Outcome, State, outcome, step

ORDER = [State.STARTING, State.READY, State.STOPPING, State.KILLING, State.EXITED]


def test_table_is_total() -> None:
    """Every (state, event) has an entry, and there are no others."""
    assert set(TABLE) == {(state, event) for state in State for event in Event}


def test_live_states() -> None:
    """Only those that start or serve count towards what is wanted."""
    assert {State.STARTING, State.READY} == LIVE


@given(st.lists(st.sampled_from(Event), max_size=12))
def test_any_history_only_moves_forward(events: list[Event]) -> None:
    """No history revives a process, and an illegal event is always the typed error."""
    state = State.STARTING
    for event in events:
        try:
            following = step(state, event)
        except IllegalTransition:
            continue
        assert ORDER.index(following.state) >= ORDER.index(state)
        state = following.state


@given(st.lists(st.sampled_from(sorted(set(Event) - {Event.EXIT, Event.SPAWN_FAILED}, key=lambda e: e.name))))
def test_nothing_but_an_exit_ends(events: list[Event]) -> None:
    """Whatever else happens, a process stays a process until it is reaped."""
    state = State.STARTING
    for event in events:
        state = step(state, event).state
        assert state is not State.EXITED
    assert step(state, Event.EXIT) == (State.EXITED, Effect.BURY)


@pytest.mark.parametrize(
    ("state", "event", "then", "effect"),
    [
        (State.STARTING, Event.READY, State.READY, Effect.ACCEPTED),
        (State.STARTING, Event.STOP, State.STOPPING, Effect.TERMINATE),
        (State.STARTING, Event.DEADLINE, State.STOPPING, Effect.TERMINATE),
        (State.STARTING, Event.HUNG, State.KILLING, Effect.DUMP),
        (State.STARTING, Event.LEAVING, State.STOPPING, Effect.AWAIT_EXIT),
        (State.STARTING, Event.EXTEND, State.STARTING, Effect.EXTEND),
        (State.STARTING, Event.SPAWN_FAILED, State.EXITED, Effect.BURY),
        (State.STARTING, Event.FORCE, State.KILLING, Effect.KILL),
        (State.READY, Event.READY, State.READY, Effect.BEAT),
        (State.READY, Event.STOP, State.STOPPING, Effect.TERMINATE),
        (State.READY, Event.LEAVING, State.STOPPING, Effect.AWAIT_EXIT),
        (State.READY, Event.DEADLINE, State.KILLING, Effect.DUMP),
        (State.READY, Event.FORCE, State.KILLING, Effect.KILL),
        (State.STOPPING, Event.READY, State.STOPPING, Effect.NONE),
        (State.STOPPING, Event.STOP, State.STOPPING, Effect.NONE),
        (State.STOPPING, Event.EXTEND, State.STOPPING, Effect.EXTEND),
        (State.STOPPING, Event.DEADLINE, State.KILLING, Effect.KILL),
        (State.STOPPING, Event.FORCE, State.KILLING, Effect.KILL),
        (State.KILLING, Event.DEADLINE, State.KILLING, Effect.KILL),
        (State.KILLING, Event.READY, State.KILLING, Effect.NONE),
        (State.EXITED, Event.STOP, State.EXITED, Effect.NONE),
        (State.EXITED, Event.FORCE, State.EXITED, Effect.NONE),
    ],
)
def test_steps(state: State, event: Event, then: State, effect: Effect) -> None:
    """The transitions that DESIGN names."""
    assert step(state, event) == (then, effect)


@pytest.mark.parametrize(
    ("state", "event"),
    [
        (State.EXITED, Event.EXIT),
        (State.EXITED, Event.READY),
        (State.READY, Event.SPAWN_FAILED),
        (State.STOPPING, Event.SPAWN_FAILED),
        (State.KILLING, Event.SPAWN_FAILED),
        (State.EXITED, Event.DEADLINE),
    ],
)
def test_illegal(state: State, event: Event) -> None:
    """What cannot be is a typed error that names both."""
    with pytest.raises(IllegalTransition, match=f"{event.name}.*{state.name}"):
        step(state, event)


@pytest.mark.parametrize(
    ("state", "asked", "was_ready", "status", "expected"),
    [
        (State.STARTING, False, False, 1, Outcome.START_FAILED),
        (State.STARTING, False, False, 0, Outcome.START_FAILED),
        (State.STOPPING, False, False, -15, Outcome.START_FAILED),
        (State.STOPPING, True, False, -15, Outcome.STOPPED),
        (State.STOPPING, True, True, -15, Outcome.STOPPED),
        (State.STOPPING, True, True, 30, Outcome.STOPPED),
        (State.KILLING, True, True, -9, Outcome.STOPPED),
        (State.READY, False, True, 0, Outcome.DONE),
        (State.READY, False, True, 3, Outcome.CRASHED),
        (State.READY, False, True, -11, Outcome.CRASHED),
        (State.STOPPING, False, True, 0, Outcome.STOPPED),
        (State.STOPPING, False, True, 1, Outcome.CRASHED),
        (State.KILLING, False, True, -9, Outcome.CRASHED),
        (State.KILLING, False, True, 0, Outcome.CRASHED),
    ],
)
def test_outcomes(state: State, asked: bool, was_ready: bool, status: int, expected: Outcome) -> None:
    """How an end is judged."""
    assert outcome(state, asked=asked, was_ready=was_ready, status=status) is expected


def test_ending_twice_is_a_bug() -> None:
    """An exited process cannot be judged again."""
    with pytest.raises(IllegalTransition):
        outcome(State.EXITED, asked=False, was_ready=True, status=0)
