"""How many requests a worker takes on."""

from __future__ import annotations

import pytest
from trapeze_backends import accepting
from trapeze_backends.accepting import PATIENCE, Room


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
    room.leave()
    assert room.has_place()


def test_wakes_when_there_is_a_place_again_and_only_then(clock: Clock) -> None:
    woken: list[float] = []
    room = Room(2, lambda: woken.append(clock.now))
    room.enter()
    room.leave()
    assert woken == []
    room.enter()
    room.enter()
    room.leave()
    assert woken == [100.0]


def test_new_ones_get_in_beside_kept_ones_that_never_rest(clock: Clock) -> None:
    """Kept connections bring in more than there are places; where requests are answered, one gets in now and then."""
    room = Room(1, lambda: None)
    room.enter()
    room.enter()
    assert not room.has_place()
    room.leave()
    assert not room.has_place(), "still one for the one thread"
    clock.now += PATIENCE
    assert room.has_place()
    room.accepted()
    assert not room.has_place()


def test_where_nothing_is_answered_nobody_gets_in(clock: Clock) -> None:
    room = Room(1, lambda: None)
    room.enter()
    assert not room.has_place()
    clock.now += 100 * PATIENCE
    assert not room.has_place()
