"""How many requests a worker takes on."""

from __future__ import annotations

import pytest
from trapeze_backends import accepting
from trapeze_backends.accepting import PATIENCE, SOON, Room


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(accepting, "time", made)
    return made


def test_as_many_as_there_are_places(clock: Clock) -> None:
    room = Room(2, lambda: None)
    room.enter()
    assert room.has_place()
    room.enter()
    assert not room.has_place()
    clock.now += 1
    room.leave()
    assert room.has_place()


def test_wakes_who_found_no_place_once_there_is_one(clock: Clock) -> None:
    woken: list[float] = []
    room = Room(1, lambda: woken.append(clock.now))
    room.enter()
    room.leave()
    assert woken == [], "nobody waits"
    room.enter()
    room.enter()
    assert not room.has_place()
    clock.now += 1
    room.leave()
    assert woken == [], "there is none yet"
    clock.now += 1
    room.leave()
    assert woken == [clock.now]
    room.enter()
    room.leave()
    assert len(woken) == 1


def test_more_are_let_in_while_threads_get_free_all_the_time(clock: Clock) -> None:
    room = Room(2, lambda: None)
    for _ in range(100):
        room.enter()
        clock.now += SOON / 10
        room.leave()
    for _ in range(3):
        room.enter()
        assert room.has_place()
    room.enter()
    assert not room.has_place(), "twice as many"
    room.leave()
    assert room.has_place()
    clock.now += 2 * SOON
    assert not room.has_place(), "nothing has been finished for a while"


def test_new_ones_get_in_beside_kept_ones_that_never_rest(clock: Clock) -> None:
    """Kept connections bring in more than there are places; where requests are answered, one gets in now and then."""
    room = Room(1, lambda: None)
    for _ in range(3):
        room.enter()
    assert not room.has_place()
    clock.now += PATIENCE / 2
    room.leave()
    assert not room.has_place(), "still two for the one thread"
    clock.now += PATIENCE / 2
    assert room.has_place()
    room.accepted()
    assert not room.has_place()


def test_where_nothing_is_answered_nobody_gets_in(clock: Clock) -> None:
    room = Room(1, lambda: None)
    room.enter()
    assert not room.has_place()
    clock.now += 100 * PATIENCE
    assert not room.has_place()
