"""What the load generators are told and say: wrk's script and figures, levels of latency, saturation. Without load."""

from __future__ import annotations

import pytest
from trapeze_bench import ownload, wrk
from trapeze_bench.fixedload import judge, rate_of, saturated
from trapeze_bench.loadresult import latencies
from trapeze_bench.openloop import Plan, Result
from trapeze_bench.requestlist import ROOT, Asked

SAID = """Running 1s test @ http://127.0.0.1:8000/
Requests/sec: 1000.00
trapeze-bench: {"micros":2000000,"requests":5000,"connect":1,"read":0,"write":0,"status":7,"timeout":0,"latencies":[\
0.5,1.0,2.5,3.0,4.5]}
"""


def test_what_wrk_says() -> None:
    found = wrk.read(SAID)

    assert found.rate == 2500
    assert found.latencies == {"p50": 0.5, "p90": 1.0, "p99": 2.5, "p99.9": 3.0, "max": 4.5}
    assert found.errors == {"connect": 1, "status": 7}
    assert found.requests == 5000


@pytest.mark.parametrize("text", ["", "unable to connect to 127.0.0.1:1 Connection refused"])
def test_wrk_without_figures(text: str) -> None:
    with pytest.raises(ValueError, match=text or "nothing"):
        wrk.read(text)


def test_wrk_is_told_what_to_ask_for() -> None:
    one = wrk.script([Asked("POST", "/x", b'{"a\\": "\n\xff"}')])
    assert 'wrk.method = "POST"' in one and 'wrk.path = "/x"' in one
    assert 'wrk.body = "{\\034a\\092\\034: \\034\\010\\255\\034}"' in one
    assert "function request" not in one, "wrk is slower when it has to call back"

    several = wrk.script([ROOT, Asked("GET", "/b")])
    assert several.count("wrk.format(") == 2 and "turn % 2 + 1" in several


def test_the_command_line_of_wrk() -> None:
    words = wrk.command("/usr/bin/wrk", "s.lua", 8000, 2, 0.4, threads=4)

    assert words[1:4] == ["-t2", "-c2", "-d1s"], "no more threads than connections, no less than a second"
    assert words[-1] == "http://127.0.0.1:8000/"


def test_levels() -> None:
    values = [number / 1000 for number in range(1000)]

    assert latencies(values) == {"p50": 500, "p90": 900, "p99": 990, "p99.9": 999, "max": 999}
    assert latencies([0.001]) == {"p50": 1, "p90": 1, "p99": 1, "p99.9": 1, "max": 1}
    assert latencies([]) == {}


def test_a_stall_counts_for_the_requests_that_it_kept_back() -> None:
    """99 of 1 ms and one of a second, on a connection that would have asked each millisecond."""
    values = [0.001] * 99 + [1.0]

    assert latencies(values)["p90"] == 1
    assert latencies(values, 0.001)["p90"] > 800


def open_loop(times: list[float], lost: int = 0, rate: float = 100.0) -> Result:
    due = [number / rate for number in range(len(times))]
    gone = [(len(times) / rate + number / rate, "timed out") for number in range(lost)]
    return Result(due, times, gone, 0, 0.0, 0.0)


def test_a_queue_that_grows_is_saturation() -> None:
    assert not saturated(open_loop([0.002] * 300), 0, 3)
    assert saturated(open_loop([number / 200 for number in range(300)]), 0, 3), "each takes 5 ms more than the last"


def test_an_app_that_takes_its_time_is_none() -> None:
    """Two seconds for each: 200 are under way at any time, and still as many are answered as come."""
    assert not saturated(open_loop([2.0] * 300), 0, 3)


def test_a_pause_that_is_over_is_none() -> None:
    assert not saturated(open_loop([0.5 - number / 100 if number < 50 else 0.002 for number in range(300)]), 0, 3)


def test_one_that_answers_no_more_is_saturation() -> None:
    assert saturated(open_loop([0.002] * 150, lost=150), 0, 3)


def test_what_became_of_them_is_counted() -> None:
    found = judge(open_loop([0.002] * 9, lost=1), 0, 0.1)

    assert found.requests == 10
    assert found.lost == {"timed out": 1}
    assert found.latencies["max"] == 2


def test_the_rate_goes_by_the_reference() -> None:
    assert rate_of([100, 300, 200]) == 150
    assert rate_of([50_000]) == 1000
    assert rate_of([0.5]) == 1


def test_an_open_loop_asks_in_turn_and_takes_more_than_200() -> None:
    plan = Plan(8000, 10.0, kept=4, asked=[("GET", "/a", ""), ("POST", "/b", "\xff")])

    assert [each.partition(b"\r\n")[0] for each in plan.raw()] == [b"GET /a HTTP/1.1", b"POST /b HTTP/1.1"]
    assert plan.raw()[1].endswith(b"\r\n\r\n\xff")
    assert plan.is_good(201) and plan.is_good(304) and not plan.is_good(404)
    assert Plan(8000, 10.0).is_good(200) and not Plan(8000, 10.0).is_good(201)


def test_what_the_own_client_hands_over() -> None:
    assert ownload.Result.of([1.0, [0.5], {"read": 1}]) == ownload.Result(1.0, [0.5], {"read": 1})
    assert ownload.TIMEOUT == wrk.TIMEOUT, "both wait as long"
