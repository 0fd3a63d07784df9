"""What the headline of a report says, and in which order: the bench is able to lose."""

from __future__ import annotations

import msgspec
import pytest
from trapeze_bench.findings import (
    counterpart,
    errors,
    headline,
    in_vain,
    leaders,
    near_ceiling,
    ranked,
    reference,
    tail,
    versus,
)
from trapeze_bench.results import Fixed, Generator, Report, Result, Scenario, Standing, Study

from tests.support.benchdoc import result, sample

PLAIN = result("gunicorn, plain", [[100.0, 101, 102], [200.0, 201, 202]], role="reference", backend="gunicorn")
FAST = [[300.0, 301, 302], [900.0, 901, 902]]
SLOW = [[200.0, 201, 202], [600.0, 601, 602]]


def study(*results: Result, **more: object) -> Study:
    values = {"connections": [1, 16], "finished": True, **more}
    return Study("app:wsgi", "wsgi", 2, 3, 1.0, requests=["GET /"], results=[*results], **values)  # type: ignore[arg-type]


def said(found: Study | None, *scenarios: Scenario, generator: Generator | None = None) -> list[tuple[str, str]]:
    report = Report(sample(1).machine, "2026-01-02T03:04Z", generator=generator, study=found, scenarios=[*scenarios])
    return [(line.kind, line.text) for line in headline(report)]


def test_who_is_fastest_is_said_with_the_reference() -> None:
    [(kind, text)] = said(study(PLAIN, result("trapeze+granian", FAST)))

    assert kind == "good"
    assert text == (
        "fastest: trapeze+granian, 301/s at 1 connection (2.98 x the reference)"
        " and 901/s at 16 connections (4.48 x the reference)"
    )


def test_slower_than_the_same_server_by_itself_comes_before_the_winner() -> None:
    found = said(study(PLAIN, result("trapeze+granian", SLOW), result("granian", FAST, role="native")))

    assert [kind for kind, _ in found] == ["bad", "good"]
    assert found[0][1] == (
        "trapeze+granian is slower than granian run by itself: 0.67 x (0.67-0.67) at 1 connection"
        " and 0.67 x (0.67-0.67) at 16 connections"
    )


def test_a_difference_inside_the_noise_is_no_loss_and_no_win() -> None:
    noisy = result("trapeze+granian", [[299.0, 301, 305], [880.0, 920, 905]])
    found = said(study(PLAIN, noisy, result("granian", FAST, role="native")))

    assert [kind for kind, _ in found] == ["good", "good"]
    words = "beside 1 server run by themselves trapeze is nowhere clearly slower"
    assert found[0][1] == f"{words}: 1.00 x in the median, 0.98-1.02 in single rounds"


def test_slower_than_the_reference_is_said() -> None:
    found = said(study(PLAIN, result("trapeze+wsgiref", [[50.0, 51, 52], [200.0, 201, 202]])))

    assert found[0] == ("bad", "slower than the reference, gunicorn, plain: trapeze+wsgiref (0.50 x at 1 connection)")
    assert "(0.50 x the reference) and 201/s at 16 connections (same as the reference)" in found[1][1]


def test_a_lost_request_comes_first_of_all() -> None:
    reload = Scenario("reload", "?", {}, [Standing("trapeze+uvicorn", verdict="3 lost", good=False)], finished=True)
    found = said(study(PLAIN, result("trapeze+granian", SLOW), result("granian", FAST, role="native")), reload)

    assert found[0] == ("bad", "reload: trapeze+uvicorn: 3 lost")
    assert [kind for kind, _ in found] == ["bad", "bad", "good"]


def test_where_trapeze_did_well_others_are_named() -> None:
    rows = [Standing("trapeze", verdict="ok", good=True), Standing("gunicorn", verdict="down", good=False)]
    rows += [Standing("granian", verdict="ok", good=True), Standing("circus", missing="pip install circus", good=False)]

    good = ("good", "broken-deploy: trapeze did what it should; not so gunicorn: down")
    assert said(None, Scenario("broken-deploy", "?", {}, rows, finished=True)) == [good]
    interrupted = ("note", "broken-deploy: interrupted, not everybody had a turn")
    assert said(None, Scenario("broken-deploy", "?", {}, rows)) == [good, interrupted]


def test_errors_are_said_and_nobody_with_errors_wins() -> None:
    erring = result("trapeze+granian", FAST)
    erring.closed[1].errors = {"timeout": 2, "read": 7, "status": 0}
    found = said(study(PLAIN, erring, result("trapeze+uvicorn", SLOW)))

    assert found[0] == ("bad", "trapeze+granian did not answer every request: 7 read, 2 timeout")
    assert found[1][1].startswith("fastest: trapeze+uvicorn")
    assert errors(erring) == {"timeout": 2, "read": 7}
    assert said(study(PLAIN, erring))[1][1] == ("no server under trapeze answered every request: there is no winner")


def test_a_failure_of_trapeze_is_said() -> None:
    found = said(study(PLAIN, Result("trapeze+x", "trapeze", "x", failed="no answer in 30 s")))

    assert found[0] == ("bad", "trapeze+x could not be measured: no answer in 30 s")


@pytest.mark.parametrize("saturated", [False, True])
def test_later_answers_at_the_fixed_rate_are_said(saturated: bool) -> None:
    ours, native = result("trapeze+granian", FAST), result("granian", FAST, role="native")
    ours.fixed = Fixed(500.0, {"p99": [3.0, 3.1, 3.2]}, saturated=saturated)
    native.fixed = Fixed(500.0, {"p99": [2.0, 2.1, 2.2]})
    found = said(study(PLAIN, ours, native))

    if saturated:
        assert found[0] == ("bad", "trapeze+granian cannot keep up with 500/s, granian by itself can")
        assert tail(ours, native) is None
    else:
        assert found[0] == (
            "bad",
            "trapeze+granian answers later than granian: p99 3.10 ms, by itself 2.10 ms, at 500/s",
        )


def test_what_makes_it_less_sure_comes_last() -> None:
    generator = Generator("own", ceiling=1000.0)
    found = said(study(PLAIN, result("trapeze+granian", FAST), finished=False), generator=generator)

    assert [kind for kind, _ in found] == ["good", "note", "note"]
    assert found[1][1].startswith("interrupted")
    assert found[2][1].endswith("(1,000/s) that it was measured, too: trapeze+granian")
    assert near_ceiling(study(PLAIN), generator) == []


def test_who_is_not_clearly_ahead_is_no_winner() -> None:
    close = [[303.0, 304, 300], [910.0, 903, 900]]
    found = said(study(PLAIN, result("trapeze+granian", close), result("trapeze+bjoern", FAST)))

    assert found[0][1].startswith("greatest median: trapeze+granian, ")
    assert found[0][1].endswith("; not clearly ahead of trapeze+bjoern")


def test_one_round_tells_nothing() -> None:
    one, other = result("trapeze+granian", [[9.0], [9.0]]), result("granian", [[1.0], [1.0]], role="native")
    found = study(PLAIN, one, other)
    found.rounds = 1

    assert [kind for kind, _ in said(found)] == ["good", "note"], "no word about what trapeze costs"
    assert said(found)[1][1] == "fewer than 3 rounds: no difference can be told from chance"


def test_that_others_were_at_work_is_said() -> None:
    machine = msgspec.structs.replace(sample(1).machine, load=3.5)
    report = Report(machine, "2026-01-02T03:04Z", study=study(PLAIN, result("trapeze+granian", FAST)))

    assert "(load 3.5 on 2 cores)" in headline(report)[-1].text


def test_chance_is_counted_where_rounds_are_few() -> None:
    pairs = [each for n in range(6) for each in (result(f"trapeze+{n}", SLOW), result(f"{n}", SLOW, role="native"))]
    notes = [text for kind, text in said(study(PLAIN, *pairs)) if kind == "note"]

    words = "with so few rounds chance alone calls up to 1 of 12 comparisons slower"
    assert notes == [f"{words} (trapeze beside servers run by themselves); more rounds make that rarer"]


def test_the_same_server_is_the_one_that_is_named() -> None:
    ours = result("trapeze+uvicorn", FAST, native="uvicorn, plain")
    base = result("uvicorn, plain", SLOW, role="reference", backend="uvicorn")
    by_name = result("trapeze+gunicorn-sync", FAST, backend="gunicorn")
    others = [result(f"gunicorn-{kind}", FAST, role="native", backend="gunicorn") for kind in ("gthread", "sync")]
    found = study(base, ours, by_name, *others)

    assert counterpart(found, ours) is base
    assert counterpart(found, by_name) is others[1]
    assert counterpart(found, base) is None
    assert counterpart(study(base, by_name), by_name) is None


def test_order_and_places() -> None:
    slow, fast = result("trapeze+a", SLOW), result("trapeze+b", FAST)
    found = study(PLAIN, slow, fast, Result("trapeze+c", "trapeze", "c", failed="no"))

    assert leaders(found) == [fast, slow]
    assert ranked(found) == [fast, slow, PLAIN]
    assert reference(found) is PLAIN
    assert versus(slow, fast, 99) is None and versus(slow, None, 1) is None


def test_nothing_measured() -> None:
    assert said(study()) == [("bad", "nothing was measured")]
    assert said(None) == []


@pytest.mark.parametrize(
    ("standing", "vain"),
    [
        (Standing("x", {"lost": 3}), False),
        (Standing("x", verdict="not measured", note="it did not come up"), True),
        (Standing("circus", missing="pip install circus"), True),
    ],
)
def test_where_nobody_could_be_measured_it_was_in_vain(standing: Standing, vain: bool) -> None:
    found = Scenario("reload", "What?", {"lost": ""}, [standing], finished=True)

    assert in_vain(Report(sample(1).machine, "2026-01-02T03:04Z", scenarios=[found])) == vain
    assert not in_vain(Report(sample(1).machine, "2026-01-02T03:04Z", study=study(result("trapeze+granian", FAST))))
    assert in_vain(Report(sample(1).machine, "2026-01-02T03:04Z", study=study()))
