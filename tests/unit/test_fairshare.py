"""How many connections a worker may have, by what its siblings have; and for whom it waits."""

from __future__ import annotations

import socket

import pytest
from trapeze_backends.board import ACCEPTED, CONNECTIONS, CREW, SIZE
from trapeze_backends.fairshare import ASLEEP, LOOK, PAUSE, Share, Turn
from trapeze_backends.worker import _is_its_own


class Crew:
    """Workers that share a scoreboard, and a clock."""

    def __init__(self, workers: int) -> None:
        self.ids = bytearray(CREW * SIZE)
        self.notes = bytearray(CREW * SIZE)
        self.now = 100.0
        for slot in range(workers):
            memoryview(self.ids).cast("Q")[slot * SIZE // 8] = slot + 1
        self.workers = [self.share(slot) for slot in range(workers)]
        for each in self.workers:
            each.note(0)

    def share(self, slot: int) -> Share:
        return Share((memoryview(self.ids), memoryview(self.notes), slot), lambda: self.now)

    def number(self, slot: int, place: int) -> int:
        return memoryview(self.notes).cast("I")[slot * SIZE // 4 + place]


def test_a_burst_is_shared() -> None:
    """Whoever is awake takes all that it may; 64 connections end up evenly."""
    crew = Crew(4)
    has = [0, 0, 0, 0]
    while sum(has) < 64:
        for slot, share in enumerate(crew.workers):
            while sum(has) < 64:
                has[slot] += 1
                if share.accepted(has[slot]):
                    share.pause(has[slot])
                    break

    assert max(has) / 16 <= 1.3, has
    assert crew.number(0, CONNECTIONS) == has[0] + 1 and crew.number(0, ACCEPTED) == has[0]


def test_few_connections_are_nobodys_loss() -> None:
    share = Crew(4).workers[0]

    assert [share.accepted(number) for number in (1, 2, 3)] == [False, False, True]


def test_nobody_is_waited_for_who_is_not_there() -> None:
    crew = Crew(3)
    crew.workers[1].leave()
    memoryview(crew.ids).cast("Q")[2 * SIZE // 8] = 0  # dead, whatever it has noted

    assert not any(crew.workers[0].accepted(number) for number in range(1, 100))


def test_alone() -> None:
    alone, single = Share(None), Crew(1).workers[0]

    assert alone.is_alone and not single.is_alone
    assert not any(share.accepted(number) for share in (alone, single) for number in range(1, 200))
    alone.note(3)
    alone.leave()


def test_a_frozen_sibling_is_waited_for_once() -> None:
    """It did not take what was left to it: it does not count, until it accepts again or some time has passed."""
    crew = Crew(2)
    share, frozen = crew.workers
    assert share.accepted(10)
    share.pause(10)
    crew.now += PAUSE
    share.resume()

    assert not share.accepted(11), "there was a connection, and nobody else took it"
    assert not any(share.accepted(number) for number in range(12, 200))
    frozen.accepted(1)
    assert share.accepted(13), "it is back"
    share.pause(13)
    share.resume()
    assert not share.accepted(14)
    crew.now += ASLEEP
    assert share.accepted(15), "for a while only"


def test_a_sibling_that_came_counts_on() -> None:
    crew = Crew(2)
    share, other = crew.workers
    assert share.accepted(10)
    share.pause(10)
    other.accepted(1)
    share.resume()

    assert share.accepted(11)


def test_who_has_come_since_is_seen_soon() -> None:
    crew = Crew(1)
    share = crew.workers[0]
    assert not share.accepted(30)
    memoryview(crew.ids).cast("Q")[5 * SIZE // 8] = 7
    crew.share(5).note(0)

    assert not share.accepted(31)
    crew.now += LOOK
    assert share.accepted(32)
    assert not share.has_too_many(2)


# -- for loops that ask -----------------------------------------------------------------------------------------------


def test_others_go_first_for_as_long_as_a_pause() -> None:
    crew = Crew(2)
    turn = Turn(crew.workers[0], lambda: crew.now)
    assert turn.left(9) == 0, "nothing was accepted"
    turn.accepted(10)

    assert turn.left(10) == pytest.approx(PAUSE)
    crew.now += PAUSE / 2
    assert turn.left(10) == pytest.approx(PAUSE / 2)
    crew.now += PAUSE
    assert turn.left(10) == 0
    turn.accepted(11)
    assert turn.left(11) == 0, "the other one did not come"


def test_a_pause_is_over_when_others_have_as_many() -> None:
    crew = Crew(2)
    turn = Turn(crew.workers[0], lambda: crew.now)
    turn.accepted(10)
    assert turn.left(10) > 0
    crew.workers[1].note(10)

    assert turn.left(10) == 0
    crew.workers[1].note(0)
    assert turn.left(10) == 0, "until the next one is accepted"


def test_nobody_is_let_go_first_who_cannot_take_it() -> None:
    """Each worker has a socket of its own: what waits there is its own."""
    with socket.socket() as common, socket.socket() as own, socket.socket(socket.AF_UNIX) as unix:
        own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)

        assert [_is_its_own(each) for each in (common, own, unix)] == [False, True, False]
