"""Scenarios of the bench, the decisions: who takes part, what becomes of a fault, which requests a picture shows."""

from __future__ import annotations

import importlib

import pytest
from trapeze_bench.loads import Period
from trapeze_bench.openloop import Result
from trapeze_bench.peers import PEERS
from trapeze_bench.results import Scenario, Standing
from trapeze_bench.scenarios import SCENARIOS, Interrupted, Setting, UnknownContestant
from trapeze_bench.scenarios.setting import wanted
from trapeze_bench.scenarios.stage import Entry, contest
from trapeze_bench.scenarios.underload import POINTS, Outcome
from trapeze_bench.targets import Failed

NAMES = ["trapeze+gunicorn", "trapeze+uvicorn", "gunicorn-sync", "granian", "granian-respawn", "trapeze, 10"]


@pytest.mark.parametrize(
    ("only", "chosen"),
    [
        (None, NAMES),
        (["trapeze"], ["trapeze+gunicorn", "trapeze+uvicorn", "trapeze, 10"]),
        (["granian-respawn"], ["granian-respawn"]),
        (["granian"], ["granian", "granian-respawn"]),
        (["gunicorn", "trapeze+uvicorn"], ["trapeze+uvicorn", "gunicorn-sync"]),
    ],
)
def test_who_is_meant(only: list[str] | None, chosen: list[str]) -> None:
    assert wanted(NAMES, only) == chosen


@pytest.mark.parametrize("word", ["", "gran", "unicorn", "trapeze+"])
def test_nobody_is_called_so(word: str) -> None:
    with pytest.raises(UnknownContestant, match="there are: trapeze"):
        wanted(NAMES, [word])


def scenario() -> Scenario:
    return Scenario("one", "What?", {"lost": "", "after": "s"})


def test_a_fault_in_one_ends_nobody_else() -> None:
    def fault() -> Standing:
        raise Failed("no answer\nfirst line\n\n  last line\n")

    said: list[str] = []
    done = contest(
        scenario(),
        Setting(say=said.append),
        [Entry("first", "", fault), Entry("second", "", lambda: Standing("second", {"lost": 0}, "ok", good=True))],
    )

    assert done.finished
    assert [(each.name, each.verdict, each.good) for each in done.standings] == [
        ("first", "not measured", None),
        ("second", "ok", True),
    ]
    assert done.standings[0].note == "no answer; it printed: last line"
    assert said == ["one: first: not measured (no answer; it printed: last line)", "one: second: ok (lost 0)"]


def test_a_fault_of_ours_is_told_by_its_kind() -> None:
    done = contest(scenario(), Setting(), [Entry("first", "", lambda: Standing(str(1 // 0)))])

    assert done.finished
    assert done.standings[0].note == "ZeroDivisionError: integer division or modulo by zero"


def test_what_is_not_installed_is_named_and_not_run() -> None:
    def never() -> Standing:
        raise AssertionError("it is not installed")

    done = contest(scenario(), Setting(), [Entry("circus", "pip install circus", never)])

    assert done.finished
    assert done.standings == [Standing("circus", verdict="not installed", missing="pip install circus")]


def test_an_interrupt_passes_with_what_there_is() -> None:
    def interrupted() -> Standing:
        raise KeyboardInterrupt

    entries = [Entry("first", "", lambda: Standing("first", verdict="ok")), Entry("second", "", interrupted)]
    with pytest.raises(KeyboardInterrupt) as caught:
        contest(scenario(), Setting(), entries)

    assert isinstance(caught.value, Interrupted)
    assert [each.name for each in caught.value.scenario.standings] == ["first"]
    assert not caught.value.scenario.finished


def outcome(requests: int, lost: int, late: float = 0.001) -> Outcome:
    """They began at 100 s; half of each on either kind of connection; the later, the slower."""
    due = [100.0 + number / 1000 for number in range(requests)]
    took = [0.001 + number / 1e6 for number in range(requests)]
    gone = [(100.0 + number / 1000, "closed" if number % 3 else "timed out") for number in range(lost)]
    fresh, kept = (Result(due[n::2], took[n::2], gone[n::2], 0, 0.0, 0.0, behind=late) for n in (0, 1))
    return Outcome(100.0, fresh, kept)


def test_a_timeline_has_all_that_were_lost_and_the_slowest() -> None:
    timeline = outcome(20_000, 6_000).timeline()

    assert len(timeline.due) == len(timeline.took) == POINTS
    assert timeline.due == sorted(timeline.due)
    assert len(timeline.lost) == 6_000
    assert timeline.lost[1] == (0.001, "closed")
    assert timeline.due[-1000:] == [round(19 + number / 1000, 4) for number in range(1000)]
    assert timeline == outcome(20_000, 6_000).timeline()


def test_a_short_timeline_has_everything() -> None:
    assert len(outcome(10, 0).timeline().due) == 10


def test_what_became_of_requests() -> None:
    found = outcome(100, 10)

    assert found.requests == 110
    assert len(found.lost()) == 10
    assert len(found.lost("fresh")) == len(found.lost("kept")) == 5
    assert len(found.lost(since=100.0055)) == 4
    assert found.why() == "6 closed, 4 timed out"
    assert found.note(since=100.0055) == "2 timed out, 2 closed"
    everything = sorted(found.fresh.took + found.kept.took)
    assert found.took(Period(100.0, 100.0095), Period(100.0985, 101.0)) == [*everything[:10], everything[-1]]


def test_a_machine_that_has_no_time_is_told() -> None:
    assert outcome(10, 0).note() == ""
    assert outcome(10, 0, late=0.2).note() == "the load came up to 200 ms late: this machine had no time for it"


@pytest.mark.parametrize("name", SCENARIOS)
def test_each_scenario_says_what_is_done_and_what_counts(name: str) -> None:
    module = importlib.import_module(f"trapeze_bench.scenarios.{name.replace('-', '_')}")

    assert len(module.__doc__ or "") > 300
    assert module.COLUMNS


def test_peers_are_named_once_and_have_a_line_that_installs_them() -> None:
    names = [peer.name for peer in PEERS]

    assert len(set(names)) == len(names)
    assert all(peer.install.startswith("pip install ") for peer in PEERS)
