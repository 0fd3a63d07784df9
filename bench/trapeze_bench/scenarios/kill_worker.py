"""SIGKILL of one worker under load: what goes with it, and when is another there?

Half of the requests come on new connections, half on 32 kept ones. The oldest worker is killed when it has served for
six seconds (two when quick). Then new connections are made, one after the other, until a process answers that was not
there before, for 15 s at most; at the end it is counted who answers.

Lost is every request without an answer or with one that is no 200. One may have been inside the worker, and is not held
against anybody; more are those that it had accepted and not begun.
"""

from __future__ import annotations

import time

from trapeze_bench import wire
from trapeze_bench.ending import kill_and_wait
from trapeze_bench.peers import PEERS, Peer
from trapeze_bench.results import Scenario, Standing
from trapeze_bench.scenarios.setting import Setting
from trapeze_bench.scenarios.stage import Stage, contest, entries, on_stage
from trapeze_bench.scenarios.underload import under_load

__all__ = ["COLUMNS", "run"]

COLUMNS = {
    "lost, fresh": "",
    "lost, kept": "",
    "requests": "",
    "replaced after": "s",
    "capacity": "workers",
}
SERVED, SERVED_QUICK = 6.0, 2.0
PATIENCE = 15.0
INSIDE = 1


def run(setting: Setting) -> Scenario:
    """All contestants."""
    question = "A worker is killed under load: what is lost, and when does its replacement answer?"
    scenario = Scenario("kill-worker", question, dict(COLUMNS))
    return contest(scenario, setting, entries(PEERS, lambda peer: _act(peer, setting)))


def _act(peer: Peer, setting: Setting) -> Standing:
    with on_stage(peer, setting) as stage:
        with under_load(stage.port, setting.rate, setting.seed) as load:
            time.sleep(SERVED_QUICK if setting.quick else SERVED)
            victim, *others = stage.actor.workers()
            began = load.note("SIGKILL of a worker")
            kill_and_wait(victim)
            replaced = _replaced(stage, {victim, *others}, began)
            load.note("its replacement answers" if replaced is not None else "given up")
            time.sleep(setting.watched / 2)
            capacity = min(len(stage.answers()), stage.wanted)
            outcome = load.stop()
        lost = outcome.lost()
        cells: dict[str, float | int | str | None] = {
            "lost, fresh": len(outcome.lost("fresh")),
            "lost, kept": len(outcome.lost("kept")),
            "requests": outcome.requests,
            "replaced after": replaced,
            "capacity": capacity,
        }
        faults = [
            "" if stage.actor.lives and capacity else "down",
            f"not replaced in {PATIENCE:g} s" if replaced is None and stage.actor.lives else "",
            f"{len(lost)} lost" if len(lost) > INSIDE else "",
        ]
        verdict = ", ".join(filter(None, faults)) or "ok"
        timeline = outcome.timeline(setting.seed)
        return Standing(peer.name, cells, verdict, verdict == "ok", outcome.note(), timeline=timeline)


def _replaced(stage: Stage, before: set[int], began: float) -> float | None:
    """Seconds until somebody answers who was not there before."""
    while time.monotonic() < began + PATIENCE and stage.actor.lives:
        try:
            answer = wire.get(("127.0.0.1", stage.port), timeout=2.0)
            if answer.status == 200 and int(answer.body.split()[-1]) not in before:
                return round(time.monotonic() - began, 3)
        except OSError:
            pass
        time.sleep(0.002)
    return None
