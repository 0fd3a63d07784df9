"""The scoreboard, from both sides: what a worker's `Board` writes is what the supervisor's `Scoreboard` reads."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator

import pytest
from trapeze_backends.board import LOOK_AT_MEMORY, SIZE, Board, Limits
from trapeze_backends.contract import Job, StartError
from trapeze_backends.measured import Meter
from trapeze_backends.queued import noted

from trapeze.scoreboard import SLOT, Scoreboard, Waits, together


@pytest.fixture
def table() -> Iterator[Scoreboard]:
    made = Scoreboard()
    yield made
    made.close()


def board(table: Scoreboard, slot: int | None) -> Board:
    """The worker's side."""
    return Board({"fd": os.dup(table.fd), "slot": slot, "waits": table.waits})


def test_both_sides_agree_on_the_size() -> None:
    assert SIZE == SLOT


@pytest.mark.parametrize("number", [1, 17, 40])
def test_what_is_written_is_read(table: Scoreboard, number: int) -> None:
    """Whatever page the slot is on; the neighbours see nothing of it."""
    slots = [table.allocate(id) for id in range(1, number + 2)]
    slot = slots[-2]
    assert slot is not None
    worker = board(table, slot)

    worker.beat(100.0, requests=7, in_flight=2)
    worker.beat(103.5, requests=9, in_flight=1)
    worker.beat(104.0, requests=9, in_flight=1)

    seen = table.read(slot)
    assert (seen.beat, seen.requests, seen.in_flight, seen.gap, seen.full) == (104.0, 9, 1, 3.5, False)
    for other in slots:
        if other != slot:
            assert other is not None
            assert table.read(other).beat == 0


def test_a_server_that_counts_nothing(table: Scoreboard) -> None:
    slot = table.allocate(1)
    assert slot is not None

    board(table, slot).beat(5.0)

    assert table.read(slot).in_flight is None


def test_slots_are_given_out_again_and_empty(table: Scoreboard) -> None:
    first, second = table.allocate(1), table.allocate(2)
    assert first is not None
    board(table, first).beat(5.0, requests=3)

    table.free(first)

    assert table.taken == {second}
    assert table.allocate(3) == first
    assert table.read(first).beat == 0
    table.free(first)
    table.free(first)  # twice is no error, and frees it once
    assert table.allocate(4) == first
    assert table.allocate(5) not in (first, second)


def test_full_table_gives_no_slot(table: Scoreboard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trapeze.scoreboard.SLOTS", 2)

    assert [table.allocate(id) for id in range(3)] == [0, 1, None]


def test_a_worker_cannot_take_the_memory_away(table: Scoreboard) -> None:
    """Shortened, it would crash all who have mapped it. The control is a memfd without seals."""
    slot = table.allocate(1)
    assert slot is not None
    with pytest.raises(PermissionError):
        os.ftruncate(table.fd, 0)
    with pytest.raises(PermissionError):
        fcntl.fcntl(table.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    control = os.memfd_create("control")
    os.ftruncate(control, 0)
    os.close(control)
    assert table.read(slot).beat == 0


@pytest.mark.parametrize("number", [1, 17, 40])
def test_waits_are_kept_apart(table: Scoreboard, number: int) -> None:
    """Each worker's own, and nothing of them in what else it writes; an empty slot has none."""
    slots = [table.allocate(id) for id in range(1, number + 2)]
    slot, neighbour = slots[-2], slots[-1]
    assert slot is not None and neighbour is not None
    worker = board(table, slot)

    for said in ("t=999.999", "t=999.990", "t=992"):
        noted(said, worker.waits, 1000.0)
    worker.beat(7.0)

    found = table.waited(slot)
    assert (found.requests, round(found.seconds, 3), found.longest) == (3, 8.011, 8.0)
    assert found.quantile(0.5) == 2**-6 and found.quantile(1.0) == 8.0
    assert table.read(slot).requests == 0 and table.read(slot).beat == 7.0
    assert table.waited(neighbour) == Waits()
    board(table, neighbour).waits.numbers[0] = 1
    both = together([found, table.waited(neighbour), Waits()])
    assert (both.requests, both.longest, sum(both.times)) == (4, 8.0, 3)
    table.free(slot)
    assert table.allocate(99) == slot and table.waited(slot) == Waits()


def test_the_last_bucket_has_no_end() -> None:
    found = Waits(requests=10, seconds=2000.0, longest=200.0, times=(*(0,) * 21, 10))

    assert found.quantile(0.5) == 200.0


def test_waits_of_those_who_left_are_kept(table: Scoreboard) -> None:
    """A counter must not fall because a worker was replaced; nor does it because the supervisor was."""
    for id, said in ((1, "t=999.5"), (2, "t=998"), (3, "never")):
        slot = table.allocate(id)
        assert slot is not None
        noted(said, board(table, slot).waits, 1000.0)
        assert table.departed().requests == id - 1
        table.free(slot)
        table.free(slot)

    heir = Scoreboard(os.dup(table.fd), table.taken)
    assert heir.departed() == table.departed()
    assert (heir.departed().requests, heir.departed().seconds, heir.departed().longest) == (2, 2.5, 2.0)
    assert sum(heir.departed().times) == 2
    heir.close()


def test_nothing_has_waited() -> None:
    assert together([]) == Waits() and Waits().quantile(0.99) == 0.0


def test_a_table_of_an_earlier_version(table: Scoreboard) -> None:
    """It ends behind the first slots: workers keep to themselves what does not fit in."""
    old = os.memfd_create("old")
    os.ftruncate(old, table.waits or 0)
    heir = Scoreboard(old)
    slot = heir.allocate(1)
    assert slot is not None and heir.waits is None

    worker = Board({"fd": os.dup(heir.fd), "slot": slot})
    noted("t=999", worker.waits, 1000.0)
    worker.beat(5.0)

    assert heir.read(slot).beat == 5.0 and heir.waited(slot) == Waits()
    heir.free(slot)
    assert heir.departed() == Waits()
    heir.close()


def test_taken_over_from_the_supervisor_before(table: Scoreboard) -> None:
    slots = [table.allocate(id) for id in range(1, 5)]
    assert slots[2] is not None
    table.free(slots[2])

    heir = Scoreboard(os.dup(table.fd), table.taken)

    assert heir.allocate(9) == slots[2]
    assert heir.allocate(10) == 4
    heir.close()
    heir.close()


def test_an_impossible_place_is_a_failed_start() -> None:
    empty = os.memfd_create("empty")
    with pytest.raises(StartError, match="scoreboard"):
        Board({"fd": empty, "slot": 0})
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(empty)


def test_meter_shows_through(table: Scoreboard) -> None:
    """What `measured` has counted stands in the slot: classes, times, and the oldest request at once."""
    slot = table.allocate(1)
    assert slot is not None
    mine = board(table, slot)

    def app(environ: dict[str, str], start_response: object) -> list[bytes]:
        assert callable(start_response)
        start_response(environ["status"], [])
        return [b"x"]

    wrapped = Meter(mine).full(app, "wsgi")
    open_response = wrapped({"status": "404 Not Found"}, lambda status, headers: None)
    assert table.read(slot).oldest > 0
    open_response.close()
    assert table.read(slot).oldest == 0
    for status in ("200 OK", "304 Not Modified", "503 Busy"):
        wrapped({"status": status}, lambda status, headers: None).close()
    mine.beat(5.0)

    seen = table.read(slot)
    assert seen.full
    assert seen.classes == (1, 1, 1, 1)
    assert sum(seen.times) == seen.requests == 4
    assert seen.in_flight == 0


def job(**fields: object) -> Job:
    return Job({"version": 1, **fields})


def test_limit_of_requests_is_said_once() -> None:
    limits = Limits(job(max_requests=10_000), 0.0)

    assert limits.reached(1.0, 9_999) == ""
    assert limits.reached(2.0, 10_012) == "has served 10,012 requests"
    assert limits.reached(3.0, 10_013) == ""


def test_limit_of_memory() -> None:
    """Looked at every few seconds, and not before the first few are over."""
    limits = Limits(job(max_rss=2**20), 100.0)

    assert limits.reached(100.0, 0) == ""
    assert limits.reached(100.0 + LOOK_AT_MEMORY - 0.1, 0) == ""
    why = limits.reached(100.0 + LOOK_AT_MEMORY, 0)
    assert why.startswith("uses ")
    assert why.endswith(" MiB of memory, may use 1")
    assert limits.reached(1000.0, 0) == ""


def test_enough_memory_is_no_limit() -> None:
    limits = Limits(job(max_rss=2**40), 0.0)

    assert limits.reached(100.0, 0) == ""
    assert Limits(job(), 0.0).reached(100.0, 10**9) == ""
