"""Each scenario, quick, with trapeze and a peer that is known to do otherwise: facts that do not hang on timing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import msgspec
import pytest
from trapeze_bench import procfs
from trapeze_bench.ending import adopting
from trapeze_bench.peers import PEERS, Peer
from trapeze_bench.results import Scenario, Standing
from trapeze_bench.scenarios import SCENARIOS, Setting
from trapeze_bench.scenarios.stage import on_stage

from tests.support.server import ROOT
from tests.support.wait import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(170)]
TRAPEZE, UVICORN, SYNC = "trapeze+gunicorn", "uvicorn", "gunicorn-sync"


def found(name: str, *only: str, workers: int = 2) -> dict[str, Standing]:
    """Run it; everything that it says of these contestants."""
    said: list[str] = []
    scenario = SCENARIOS[name](Setting(workers, said.append, only, seconds=1.0, quick=True, rate=100.0))

    assert scenario.finished
    assert scenario.name == name
    assert len(said) == len(scenario.standings)
    for standing in scenario.standings:
        assert set(standing.cells) <= set(scenario.columns)
        assert standing.verdict not in ("", "not measured"), standing.note
    assert msgspec.json.decode(msgspec.json.encode(scenario), type=Scenario) == scenario
    return {standing.name: standing for standing in scenario.standings}


def test_reload() -> None:
    standing = found("reload", TRAPEZE)[TRAPEZE]

    assert (standing.cells["lost, fresh"], standing.cells["lost, kept"]) == (0, 0), standing.note
    assert standing.cells["new code"] == "yes"
    timeline = standing.timeline
    assert timeline is not None
    assert len(timeline.due) == len(timeline.took) == standing.cells["requests"]
    assert [event.what for event in timeline.events] == ["reload", "all workers are new"] * 2


def test_broken_deploy() -> None:
    standings = found("broken-deploy", TRAPEZE, SYNC)

    ours, sync = standings[TRAPEZE], standings[SYNC]
    assert (ours.verdict, ours.good) == ("ok", True), ours.note
    assert ours.cells["exit code"] == 1
    assert "this deploy is broken" in str(ours.cells["it said"])
    assert sync.good is False
    assert (sync.cells["up"], sync.cells["capacity"], sync.cells["exit code"]) == ("no", 0, None)
    assert sync.timeline is not None and sync.timeline.lost


def test_half_copied() -> None:
    standings = found("half-copied", "trapeze+gunicorn,warm", SYNC, workers=1)

    ours, sync = standings["trapeze+gunicorn,warm"], standings[SYNC]
    assert (ours.cells["capacity, views"], ours.cells["capacity, app"]) == (1, 1), ours.note
    assert sync.good is False
    assert sync.cells["capacity, app"] == 0


def test_kill_worker() -> None:
    standing = found("kill-worker", TRAPEZE)[TRAPEZE]

    assert standing.cells["capacity"] == 2
    assert isinstance(standing.cells["replaced after"], float)


def test_kill_supervisor() -> None:
    standings = found("kill-supervisor", TRAPEZE, UVICORN)

    ours, uvicorn = standings[TRAPEZE], standings[UVICORN]
    assert ours.cells == {"workers left": 0, "others left": 0, "port answers": "no", "new start": "ok"}
    assert ours.good is True
    assert uvicorn.good is False
    assert (uvicorn.cells["workers left"], uvicorn.cells["port answers"]) == (2, "yes")


def test_frozen_worker() -> None:
    standing = found("frozen-worker", UVICORN)[UVICORN]

    assert standing.good is not None
    assert standing.timeline is not None
    assert standing.timeline.events[0].what == "SIGSTOP of a worker"


def test_queue_at_stop() -> None:
    standings = found("queue-at-stop", TRAPEZE, SYNC)

    assert (standings[TRAPEZE].verdict, standings[TRAPEZE].good) == ("ok", True)
    assert standings[SYNC].good is False
    assert standings[SYNC].cells["lost"] != 0


@pytest.mark.parametrize("name", ["idle", "boot"])
def test_costs(name: str) -> None:
    standings = found(name, TRAPEZE, "granian")

    for standing in standings.values():
        assert standing.good is None
        assert all(isinstance(cell, int | float) for cell in standing.cells.values()), standing.cells


def test_memory() -> None:
    standings = found("memory", TRAPEZE, "hypercorn")

    together = {name: float(standing.cells["together"] or 0) for name, standing in standings.items()}
    assert together["trapeze+gunicorn,no-preload"] > 200  # two times the app
    assert together["hypercorn"] > 200
    assert 100 < together[TRAPEZE] < together["trapeze+gunicorn,no-preload"]


def test_many_services() -> None:
    standings = found("many-services", "trapeze")

    assert list(standings) == ["trapeze, 10", "trapeze, 50"]
    for standing in standings.values():
        assert (standing.verdict, standing.cells["left"]) == ("ok", 0)
    assert [standing.cells["processes"] for standing in standings.values()] == [10, 50]


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_each_peer_is_started_asked_to_reload_and_ended(peer: Peer) -> None:
    if peer.missing:
        pytest.skip(peer.missing)
    before = procfs.children(os.getpid())

    with adopting(), on_stage(peer, Setting(quick=True)) as stage:
        old = stage.actor.workers()
        answered = stage.answers(20.0)
        stage.code.deploy("2")
        said = stage.actor.reload()
        replaced = stage.new_only(old, 30.0)
        new = stage.answers(20.0, enough=lambda found: list(found.values()).count("2") >= 2)

    assert set(answered) <= set(old)
    assert set(answered.values()) == {"1"}
    assert said.code in (0, None), said
    assert replaced
    assert "2" in new.values()
    assert procfs.children(os.getpid()) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_nothing_and_shows_what_there_is(number: signal.Signals) -> None:
    """The master of two workers is killed first: they are nobody's children any more when the interrupt comes."""
    argv = [sys.executable, "-m", "trapeze_bench.scenarios", "kill-supervisor", "--only", "uvicorn", "--json"]
    with subprocess.Popen(argv, cwd=ROOT / "bench", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as bench:
        family: dict[int, int] = {}

        def orphans() -> bool:
            """Workers of uvicorn whose parent is the bench itself."""
            family.update(procfs.descendants(bench.pid))
            own = procfs.children(bench.pid)
            return sum("spawn_main" in " ".join(procfs.words(pid)) for pid in own) == 2

        until(orphans, timeout=60, what="two workers without a master")
        bench.send_signal(number)
        out, err = bench.communicate(timeout=60)

    assert bench.returncode == 1, err
    scenario = msgspec.json.decode(out, type=Scenario)
    assert (scenario.finished, scenario.standings) == (False, [])
    assert [pid for pid, started in family.items() if procfs.runs(pid, started)] == []
