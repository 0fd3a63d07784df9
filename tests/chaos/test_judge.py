"""The judge: each promise that is broken is named, and only what the driver has killed is excepted."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tests.chaos.judge import Kill, Life, floor_breaches, judge, lives, mixed_generations, shot, table
from tests.chaos.records import DOUBLED, NEVER_LIVE, OK, REFUSED, RESET, TIMED_OUT, WRONG_BODY, WRONG_STATUS, Record

GOOD = Record("a", "web", "fresh", 10.0, 10.0, 10.2, OK, "after", False, 7, "2", "v2")
ALIVE = [Life("web", 7, 2, 5.0, 20.0), Life("web", 6, 1, 1.0, 6.0)]
KILL = Kill("web", 7, 10.0, 10.1)


def one(record: Record, pids: tuple[int, ...] = (7,), kills: tuple[Kill, ...] = ()) -> tuple[str, bool, bool]:
    """Outcome, excepted, lost."""
    (verdict,) = judge([record], {"a": pids}, ALIVE, kills)
    return verdict.record.outcome, verdict.excepted, verdict.lost


def test_good() -> None:
    assert one(GOOD) == (OK, False, False)


def test_executed_twice() -> None:
    assert one(GOOD, (7, 7)) == (DOUBLED, False, True)
    assert one(GOOD._replace(outcome=RESET), (7, 6)) == (DOUBLED, False, True)


def test_answered_but_executed_elsewhere_or_nowhere() -> None:
    assert one(GOOD, ())[0] == WRONG_BODY
    assert one(GOOD, (6,))[0] == WRONG_BODY


@pytest.mark.parametrize(
    "record",
    [
        GOOD._replace(generation="3"),
        GOOD._replace(generation="?"),
        GOOD._replace(due=21.0, sent=21.0, done=21.1),
        GOOD._replace(due=1.0, sent=1.0, done=1.1),
    ],
    ids=["another generation", "none", "after its end", "before it was ready"],
)
def test_never_live(record: Record) -> None:
    assert one(record) == (NEVER_LIVE, False, True)


def test_a_stranger_is_never_live() -> None:
    (verdict,) = judge([GOOD._replace(pid=8)], {"a": (8,)}, ALIVE, ())

    assert verdict.record.outcome == NEVER_LIVE


@pytest.mark.parametrize(("generation", "outcome"), [(2, OK), (3, NEVER_LIVE)])
def test_a_worker_that_was_never_ready(generation: int, outcome: str) -> None:
    """It was asked to leave while it started: its generation must have been in service by others."""
    never = Life("web", 8, generation, math.inf, 20.0)
    (verdict,) = judge([GOOD._replace(pid=8, generation=str(generation))], {"a": (8,)}, [*ALIVE, never], ())

    assert verdict.record.outcome == outcome


def test_children_of_a_worker_answer() -> None:
    """Where they do, the generation must have been live."""
    found = judge([GOOD._replace(pid=99)], {"a": (99,)}, ALIVE, (), frozenset({"web"}))
    late = judge([GOOD._replace(pid=99, generation="1")], {"a": (99,)}, ALIVE, (), frozenset({"web"}))

    assert (found[0].record.outcome, late[0].record.outcome) == (OK, NEVER_LIVE)


@pytest.mark.parametrize("outcome", [RESET, WRONG_STATUS])
@pytest.mark.parametrize("pids", [(), (7,)], ids=["not read yet", "executed there"])
def test_inside_a_killed_worker(outcome: str, pids: tuple[int, ...]) -> None:
    broken = GOOD._replace(outcome=outcome, phase="wait")

    assert one(broken, pids, (KILL,)) == (outcome, True, False)
    assert one(broken, pids) == (outcome, False, True)


@pytest.mark.parametrize(
    ("record", "pids"),
    [
        (GOOD._replace(outcome=RESET, phase="wait", done=9.9), ()),
        (GOOD._replace(outcome=RESET, phase="wait", done=11.0), ()),
        (GOOD._replace(outcome=RESET, phase="wait"), (6,)),
        (GOOD._replace(outcome=TIMED_OUT, phase="wait"), (7,)),
        (GOOD._replace(outcome=REFUSED, phase="connect"), ()),
        (GOOD._replace(outcome=RESET, phase="idle"), ()),
        (GOOD._replace(outcome=WRONG_BODY, phase="answer"), (7,)),
    ],
    ids=["before", "long after", "executed by another", "timed out", "refused", "reset while idle", "wrong body"],
)
def test_what_no_kill_excuses(record: Record, pids: tuple[int, ...]) -> None:
    assert one(record, pids, (KILL,))[1:] == (False, True)
    assert one(record, pids, (KILL._replace(service="other"),))[1:] == (False, True)


# -- the floor


def event(revision: int, process: int | None, to: str, pid: int = 0, why: str = "", from_: str = "") -> dict[str, Any]:
    return {
        "revision": revision, "at": float(revision), "service": "web", "process": process, "pid": pid or process,
        "generation": 1, "to": to, "why": why, "from": from_,
    }  # fmt: skip


START = [event(1, 1, "READY"), event(2, 2, "READY")]
FLOOR = [(2.0, "web", 2)]


def test_make_before_break() -> None:
    assert (
        floor_breaches([*START, event(3, 3, "READY"), event(4, 1, "STOPPING"), event(5, 1, "EXITED")], FLOOR, []) == []
    )


def test_break_before_make() -> None:
    (found,) = floor_breaches([*START, event(3, 1, "STOPPING"), event(4, 3, "READY")], FLOOR, [])

    assert "1 ready, floor 2, at revision 3" in found


def test_a_killed_worker_may_be_missing_until_it_was_replaced() -> None:
    killed = [*START, event(3, 1, "EXITED", why="killed by SIGKILL"), event(4, 3, "READY")]

    assert floor_breaches(killed, FLOOR, [1]) == []
    assert len(floor_breaches([*killed, event(5, 2, "STOPPING")], FLOOR, [1])) == 1


def test_an_end_that_nobody_asked_for() -> None:
    found = floor_breaches([*START, event(3, 1, "EXITED", why="killed by SIGSEGV")], FLOOR, [])

    assert any("ended unasked: killed by SIGSEGV" in each for each in found)


def test_the_floor_is_the_one_of_its_time() -> None:
    floors = [*FLOOR, (3.0, "web", 1), (5.0, "web", 2)]

    assert floor_breaches([*START, event(4, 1, "STOPPING")], floors, []) == []
    assert len(floor_breaches([*START, event(4, 1, "STOPPING"), event(6, 2, "STOPPING")], floors, [])) == 1


# -- the rest


def test_lives() -> None:
    events = [event(1, 1, "STARTING"), event(2, 1, "READY"), event(3, 2, "STARTING"), event(4, 1, "EXITED")]

    assert lives(events, 100.0) == [Life("web", 1, 1, 102.0, 104.0), Life("web", 2, 1, math.inf, math.inf)]
    assert lives(events[:2], 0.0)[0].end == math.inf


def test_killed_at_its_stop() -> None:
    """Only what the driver has provoked is no finding."""
    events = [event(1, 1, "EXITED", from_="STOPPING"), event(2, 2, "EXITED", why="killed by SIGKILL", from_="KILLING")]

    assert shot(events, []) == ["web: pid 2 did not leave: killed by SIGKILL"]
    assert shot(events, [2]) == []


def test_mixed_generations() -> None:
    """A worker that came back with what lay on the disk, under the old number."""
    assert mixed_generations([GOOD, GOOD]) == []
    assert mixed_generations([GOOD, GOOD._replace(code="v3")]) == ["web: generation 2 answered with ['v2', 'v3']"]
    assert mixed_generations([GOOD, GOOD._replace(code="v3")], {("web", "2")}) == []


def test_table() -> None:
    verdicts = judge([GOOD, GOOD._replace(id="b", outcome=RESET, phase="wait")], {"a": (7,)}, ALIVE, ())

    assert table(verdicts)[1].split() == ["web", "fresh", "2", "1", "0", "200", "200", "reset", "(wait)", "1"]
