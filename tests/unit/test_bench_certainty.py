"""How sure a recommendation is: what speaks against the measurement makes it less so, and is said."""

from __future__ import annotations

import pytest
from trapeze_bench.advice import Advice, advise
from trapeze_bench.certainty import Certainty, Surroundings, certainty
from trapeze_bench.findings import leaders
from trapeze_bench.results import Generator, Result, Study

from tests.support.benchdoc import result

PLAIN = result("gunicorn, plain", [[100.0, 101, 102], [200.0, 201, 202]], role="reference", backend="gunicorn")
SLOW = [[200.0, 201, 202], [600.0, 601, 602]]
FAST = [[300.0, 301, 302], [900.0, 901, 902]]
CALM = Surroundings(2, 0.3)


def study(*results: Result, connections: tuple[int, ...] = (1, 16)) -> Study:
    requests = ["GET /", "GET /x"]
    return Study(
        "shop:app", "wsgi", 2, 3, 1.0, [*connections], requests, finished=True, results=[PLAIN, *results]
    )  # fmt: skip


def between(fast: list[list[float]], slow: list[list[float]], around: Surroundings = CALM) -> Certainty:
    """Of two, of which the first is not behind."""
    found = study(result("trapeze+granian", fast), result("trapeze+waitress", slow))
    return certainty(found, leaders(found)[0], leaders(found)[:1], around)


def test_nothing_speaks_against_it() -> None:
    assert between(FAST, SLOW) == Certainty("high", between(FAST, SLOW, Surroundings()).why, [])


@pytest.mark.parametrize(("load", "sure"), [(0.9, "high"), (1.1, "medium"), (2.0, "medium"), (2.1, "low")])
def test_others_at_work(load: float, sure: str) -> None:
    found = between(FAST, SLOW, Surroundings(2, load))

    assert found.sure == sure
    if sure != "high":
        assert found.why == f"others were at work when it began (load {load} on 2 cores)"
        assert found.remedies == ["others had a share of the machine: measure when it does nothing else"]


def test_the_same_load_is_little_on_many_cores() -> None:
    assert between(FAST, SLOW, Surroundings(16, 4.0)).sure == "high"


def test_near_the_limit_of_the_generator() -> None:
    found = between(FAST, SLOW, Surroundings(2, 0.0, Generator("wrk", ceiling=1000.0)))

    assert (found.sure, found.why) == ("medium", "it came near to what the generator can drive")
    assert between(FAST, SLOW, Surroundings(2, 0.0, Generator("wrk", ceiling=10_000.0))).sure == "high"


def test_rounds_that_differ_less_than_the_lead() -> None:
    """It is ahead in any case, but by how much nobody can say."""
    found = between([[300.0, 301, 302], [900.0, 1000, 1300]], SLOW)

    assert found.sure == "medium"
    assert found.why == "its rounds differ by 40 % of their median (trapeze+granian at 16 connections)"
    assert found.remedies == ["rounds that differ so much need to be more: --rounds 8"]


def test_rounds_that_differ_more_than_the_lead() -> None:
    found = between([[210.0, 220, 330], [900.0, 901, 902]], SLOW)

    assert (found.sure, found.why[:38]) == ("low", "its rounds differ by 55 % of their med")


def test_rounds_of_the_next_one() -> None:
    found = between(FAST, [[100.0, 190, 202], [600.0, 601, 602]])

    assert found.sure == "medium"
    assert found.why == "the rounds of the next one differ by 54 % of their median (trapeze+waitress at 1 connection)"


def test_rounds_of_somebody_far_behind_do_not_matter() -> None:
    scattered = result("trapeze+wsgiref", [[20.0, 40, 80], [30.0, 60, 90]], backend="chaussette")
    found = study(result("trapeze+granian", FAST), result("trapeze+waitress", SLOW), scattered)

    assert certainty(found, leaders(found)[0], leaders(found)[:1], CALM).sure == "high"


def test_few_rounds_at_one_number_of_connections_are_a_draw() -> None:
    def few(rounds: int) -> Certainty:
        rates = [[900.0 + number for number in range(rounds)]], [[600.0 + number for number in range(rounds)]]
        found = study(*map(result, ("trapeze+granian", "trapeze+waitress"), rates), connections=(1,))
        return certainty(found, leaders(found)[0], leaders(found)[:1], CALM)

    assert few(3).sure == "medium"
    assert few(3).why == "chance alone would separate two that are equal like this in 10 % of all cases"
    assert few(3).remedies == ["more than 3 rounds would leave less to chance"]
    assert few(5).sure == "high"


def test_all_that_makes_it_unsure_is_said_together() -> None:
    found = between([[150.0, 420, 700], [500.0, 900, 1300]], SLOW, Surroundings(2, 10.1))

    assert found.sure == "low"
    parts = found.why.split("; and ")
    assert [part.split()[0] for part in parts] == ["in", "others", "its"]
    assert len(found.remedies) == 2


def advised(load: float) -> Advice:
    """An app of 50 ms, of which 5 are processor time."""
    rates = [[20.0, 20.1, 20.2], [40.0, 40.1, 40.2]]
    found = result("trapeze+gunicorn-gthread", rates, backend="gunicorn", cpu_workers=[5.0] * 3)
    found.closed[0].latencies = {"p50": [50.0] * 3}
    return advise(study(found), Surroundings(2, load))


def test_a_wait_for_the_processor_is_no_wait_of_the_app() -> None:
    """Beside others, threads are not what would help."""
    assert advised(0.3).threads == 10
    busy = advised(10.1)
    assert (busy.threads, busy.workers, busy.sure) == (None, 2, "low")
    assert "others had the processor, too" in busy.reasons[-1]
    assert busy.changes[0] == "others had a share of the machine: measure when it does nothing else"
    assert not [change for change in busy.changes if "fewer threads" in change]
