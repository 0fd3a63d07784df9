"""What a turn has found goes into the document; what is said while it runs; which worker did how much."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.live import Live
from trapeze_bench.family import balance, spent
from trapeze_bench.fixedload import FixedFound
from trapeze_bench.loadresult import Found
from trapeze_bench.progress import Lines, Screen, best_rate
from trapeze_bench.results import Result, Study
from trapeze_bench.study import add
from trapeze_bench.turns import Turn

TIMES = {"p50": 1.0, "max": 2.0}


def one_turn(rate: float, *, saturated: bool = False) -> Turn:
    closed = [Found(rate, TIMES, {}, 100), Found(2 * rate, TIMES, {"read": 1}, 200)]
    fixed = FixedFound(TIMES, {"timed out": 2}, 500, saturated)
    return Turn(0.5, closed, fixed, 0.1, 0.01, 60.0, 20.0, 1.25)


@pytest.fixture
def result() -> Result:
    found = Result("trapeze+granian", "trapeze", "granian")
    add(found, one_turn(1000), [1, 16], 400)
    add(found, one_turn(1200, saturated=True), [1, 16], 400)
    return found


def test_lists_have_one_entry_a_round(result: Result) -> None:
    assert [each.connections for each in result.closed] == [1, 16]
    assert [each.rates for each in result.closed] == [[1000, 1200], [2000, 2400]]
    assert result.closed[1].latencies == {"p50": [1, 1], "max": [2, 2]}
    assert [result.starts, result.cpu_workers, result.pss_workers, result.balance] == [
        [0.5, 0.5],
        [0.1, 0.1],
        [60, 60],
        [1.25, 1.25],
    ]


def test_counts_are_of_all_rounds(result: Result) -> None:
    assert [each.requests for each in result.closed] == [200, 400]
    assert [each.errors for each in result.closed] == [{}, {"read": 2}]
    assert result.fixed is not None
    assert (result.fixed.rate, result.fixed.requests, result.fixed.lost) == (400, 1000, {"timed out": 4})
    assert result.fixed.saturated, "once is enough"


def test_the_best_rate_so_far(result: Result) -> None:
    assert best_rate(result) == (2200, 16)
    assert best_rate(Result("x", "native", "x")) is None


def test_plain_lines(result: Result) -> None:
    out = io.StringIO()
    lines = Lines(Console(file=out, width=40))
    study = Study("shop:app", "wsgi", 2, 3, 3, [1, 16], ["GET /"], results=[result])

    lines.measured(study, "trapeze+granian", 2, 65)
    result.failed = "it ended"
    lines.measured(study, "trapeze+granian", 3, 65)

    text = "round 2 of 3, trapeze+granian: 1,200/s at 1, 2,400/s at 16; 1 min left\n"
    assert out.getvalue() == text, "one line, however narrow; and none for one that failed"


def test_the_table_while_it_runs(result: Result) -> None:
    """Bars of the best rate so far, the one that runs, those that failed, the time left."""
    out = io.StringIO()
    console = Console(file=out, width=100)
    slow = Result("gunicorn, plain", "reference", "gunicorn")
    add(slow, one_turn(275), [1, 16], 400)
    waiting = Result("trapeze+bjoern", "trapeze", "bjoern")
    dead = Result("trapeze+uwsgi", "trapeze", "uwsgi", failed="it ended")
    study = Study("shop:app", "wsgi", 2, 3, 3, [1, 16], ["GET /"], results=[slow, result, waiting, dead])
    screen = Screen(console, study, Live(console=console, auto_refresh=False))

    screen.doing("trapeze+granian", 3, "16 connections", 3600)
    console.print(screen)

    rows = [line.split() for line in out.getvalue().splitlines()]
    assert ["gunicorn,", "plain", "550/s", "1/3", "█" * 7 + "▌"] in rows
    assert ["trapeze+granian", "2,200/s", "2/3", "█" * 30] in rows
    assert ["trapeze+bjoern"] in rows and ["trapeze+uwsgi", "failed"] in rows
    assert "round 3 of 3: trapeze+granian, 16 connections; 1 h left" in out.getvalue()


def test_balance() -> None:
    assert balance([1.0, 1.0]) == 1
    assert balance([2.0, 0.0]) == 2
    assert balance([3.0, 1.0, 2.0]) == 1.5
    assert balance([0.0, 0.0]) == 1


def test_what_was_spent() -> None:
    """A worker that is new, as after a crash, has spent all that it has; one that is gone cannot be asked."""
    found = spent([1, 2, 3], {1: 4.0, 2: 4.0, 9: 1.5}, {1: 5.0, 3: 1.0, 9: 2.0})

    assert (found.workers, found.others) == ({1: 1.0, 3: 1.0}, 0.5)
