"""What is recommended, and how sure that is."""

from __future__ import annotations

from typing import Any

import pytest
from trapeze_backends import registry
from trapeze_backends.features import describe
from trapeze_bench.advice import THREADED, advise, share_of_processor
from trapeze_bench.certainty import Surroundings
from trapeze_bench.results import Fixed, Generator, Result, Study

from tests.support.benchdoc import result

PLAIN = result("gunicorn, plain", [[100.0, 101, 102], [200.0, 201, 202]], role="reference", backend="gunicorn")
SLOW = [[200.0, 201, 202], [600.0, 601, 602]]
MIDDLE = [[250.0, 251, 252], [700.0, 701, 702]]
FAST = [[300.0, 301, 302], [900.0, 901, 902]]


def study(*results: Result, interface: str = "wsgi", **more: object) -> Study:
    values = {"connections": [1, 16], "finished": True, "requests": ["GET /", "GET /x"], **more}
    return Study("shop:app", interface, 2, 3, 1.0, results=[PLAIN, *results], **values)  # type: ignore[arg-type]


def test_clearly_ahead_everywhere_is_sure() -> None:
    found = advise(study(result("trapeze+granian", FAST), result("trapeze+gunicorn", SLOW)), Surroundings(2))

    assert (found.backend, found.contestant, found.sure) == ("granian", "trapeze+granian", "high")
    assert found.words.startswith("granian, 2 workers. How sure: high, since it is ahead at every number")
    beside = "requests per second of trapeze+granian, of gunicorn, plain"
    assert found.reasons[0] == f"{beside}: 2.98 x at 1 connection and 4.48 x at 16 connections"


def test_of_those_that_are_the_same_the_boring_one() -> None:
    close = [[301.0, 305, 304], [899.0, 903, 902]]
    found = advise(
        study(result("trapeze+granian", close), result("trapeze+gunicorn-gthread", FAST, backend="gunicorn"))
    )

    assert (found.backend, found.sure) == ("gunicorn", "low")
    assert "the same within the noise: of these it is the one that most people run" in found.certainty
    assert "trapeze+granian has the greatest median, but by less than the noise" in found.reasons


def test_of_those_that_are_the_same_without_a_boring_one_the_first() -> None:
    close = [[301.0, 305, 304], [899.0, 903, 902]]
    found = advise(study(result("trapeze+bjoern", FAST), result("trapeze+fastpysgi", close)))

    assert (found.backend, found.sure) == ("fastpysgi", "low")
    assert "none of those that are the same is gunicorn or uvicorn" in " ".join(found.reasons)


def test_the_boring_one_is_not_taken_where_it_answers_later() -> None:
    granian, gunicorn = result("trapeze+granian", FAST), result("trapeze+gunicorn", FAST)
    granian.fixed = Fixed(100.0, {"p99": [2.0, 2.1, 2.2]})
    gunicorn.fixed = Fixed(100.0, {"p99": [9.0, 9.1, 9.2]})

    for found in (advise(study(gunicorn, granian)), advise(study(granian, gunicorn))):
        assert (found.backend, found.sure) == ("granian", "low")
        assert "in requests per second it is the same as trapeze+gunicorn within the noise" in found.certainty


def test_ahead_only_in_places_is_less_sure() -> None:
    mixed = [[200.0, 201, 202], [1900.0, 1901, 1902]]
    found = advise(study(result("trapeze+granian", mixed), result("trapeze+gunicorn", MIDDLE)))

    assert (found.backend, found.sure) == ("granian", "medium")
    assert "not ahead of trapeze+gunicorn at every number of connections" in found.certainty


def test_a_worse_tail_is_less_sure() -> None:
    fast, slow = result("trapeze+granian", FAST), result("trapeze+gunicorn", SLOW)
    fast.fixed = Fixed(100.0, {"p99": [9.0, 9.1, 9.2]})
    slow.fixed = Fixed(100.0, {"p99": [2.0, 2.1, 2.2]})
    found = advise(study(fast, slow))

    assert found.sure == "medium" and "answers later at the fixed rate than trapeze+gunicorn" in found.certainty


def test_near_the_limit_of_the_generator_nothing_is_sure() -> None:
    found = advise(
        study(result("trapeze+granian", FAST), result("trapeze+gunicorn", SLOW)),
        Surroundings(generator=Generator("own", "", 1000.0)),
    )

    assert found.sure == "medium" and "generator" in found.certainty
    assert "a generator on a machine of its own could tell the fastest ones apart" in found.changes


@pytest.mark.parametrize(
    ("rates", "finished", "why"),
    [([[300.0], [900.0]], True, "no more than 1 round"), (FAST, False, "cut short")],
)
def test_too_little_was_measured(rates: list[list[float]], finished: bool, why: str) -> None:
    found = advise(study(result("trapeze+granian", rates), finished=finished))

    assert found.sure == "low" and why in found.certainty


def test_alone() -> None:
    assert advise(study(result("trapeze+granian", FAST))).sure == "medium"


def test_never_one_with_errors() -> None:
    erring, failed = result("trapeze+granian", FAST), Result("trapeze+x", "trapeze", "x", failed="no answer")
    erring.closed[0].errors = {"status": 1}
    lost = result("trapeze+hypercorn", FAST)
    lost.fixed = Fixed(100.0, {"p99": [1.0, 1.0, 1.0]}, lost={"reset": 1})
    found = advise(study(erring, failed, lost, result("trapeze+gunicorn", SLOW)))

    assert found.backend == "gunicorn"
    assert (
        "not considered, since it failed or had errors: trapeze+granian, trapeze+x and trapeze+hypercorn"
        in found.reasons
    )
    nothing = advise(study(erring, failed))
    assert (nothing.backend, nothing.command, nothing.sure) == ("", "", "low")
    assert "Nothing can be recommended" in nothing.words
    assert "trapeze+x: no answer" in nothing.reasons
    assert "trapeze+granian: did not answer every request" in nothing.reasons
    interrupted = advise(study(Result("trapeze+granian", "trapeze", "granian")))
    assert interrupted.reasons == ["trapeze+granian: was not measured"]


def timed(name: str, latency: float, cpu: float, **more: Any) -> Result:
    """A contestant with such a median latency (ms) at one connection, and such processor time (ms a request)."""
    found = result(name, [[1000 / latency] * 3, [2000 / latency] * 3], cpu_workers=[cpu] * 3, **more)
    found.closed[0].latencies = {"p50": [latency] * 3}
    return found


def test_an_app_that_computes_gets_a_worker_for_each_core() -> None:
    found = advise(study(timed("trapeze+gunicorn-gthread", 10.0, 9.0, backend="gunicorn")), Surroundings(8))

    assert (found.workers, found.threads) == (8, 2)
    assert (
        "90 % of a request's time is processor time: more workers than cores would only take turns" in found.reasons[-1]
    )
    assert "measured was 2 workers, not 8: run it again with --workers 8" in found.changes
    assert found.command == "trapeze serve shop:app --backend gunicorn --workers 8 --threads 2"


def test_an_app_that_waits_gets_threads() -> None:
    found = advise(study(timed("trapeze+gunicorn-gthread", 50.0, 5.0, backend="gunicorn")), Surroundings(2))

    assert (found.workers, found.threads) == (2, 10)
    assert "10 % of a request's time is processor time, the rest is waiting: 10 threads in each" in found.reasons[-1]


def test_an_app_that_only_waits_gets_no_more_threads_than_make_sense() -> None:
    assert advise(study(timed("trapeze+waitress", 50.0, 0.01)), Surroundings(2)).threads == 32


@pytest.mark.parametrize("name", ["trapeze+bjoern", "trapeze+gunicorn-sync"])
def test_a_server_without_threads_gets_workers_instead(name: str) -> None:
    backend = name.partition("+")[2].partition("-")[0]
    found = advise(study(timed(name, 50.0, 5.0, backend=backend)), Surroundings(2))

    assert (found.workers, found.threads) == (16, None)


def test_an_event_loop_needs_no_threads() -> None:
    found = advise(study(timed("trapeze+uvicorn", 50.0, 5.0), interface="asgi"), Surroundings(4))

    assert (found.workers, found.threads) == (4, None)
    assert "an event loop serves others" in found.reasons[-1]


def test_the_way_there_and_back_is_no_waiting() -> None:
    fast = timed("trapeze+granian", 0.2, 0.05)

    assert share_of_processor(study(fast), fast) == 1.0
    assert "next to all of a request's time" in advise(study(fast), Surroundings(2)).reasons[-1]


def test_a_queue_is_no_waiting_of_the_app() -> None:
    """16 connections on two workers: seven of eight parts of the latency are the wait for those ahead."""
    found = timed("trapeze+granian", 80.0, 5.0)
    found.closed = [found.closed[1]]
    found.closed[0].latencies = {"p50": [80.0] * 3}

    assert share_of_processor(study(found), found) == pytest.approx(0.5)


def test_unknown_cores_and_times() -> None:
    found = advise(study(result("trapeze+granian", FAST)))

    assert (found.workers, found.threads) == (2, None)
    assert "the cores are not known" in found.reasons[-1]


def test_options_of_the_contestant_are_in_the_command() -> None:
    words = "trapeze serve shop:app --backend gunicorn --option worker_class=gevent --bind 127.0.0.1:8000"
    found = advise(study(result("trapeze+gunicorn-gevent", FAST, backend="gunicorn", command=words.split())))

    assert found.command == "trapeze serve shop:app --backend gunicorn --workers 2 --option worker_class=gevent"


def test_one_request_is_no_mix() -> None:
    found = advise(study(result("trapeze+granian", FAST), requests=["GET /"]))

    assert "only GET / was asked for: give the mix of your app by --requests-file" in found.changes


def test_the_servers_with_threads_are_those_that_have_some() -> None:
    described = {name: describe(registry.get(name)) for name in registry.BUILT_IN}

    assert {name for name, each in described.items() if each["fields"]["threads"] != "no"} == THREADED
