"""A worker that stands still (SIGSTOP): is it noticed, and what becomes of the requests it holds?

Under a light load (half on new, half on kept connections) one worker is stopped, as one that hangs in a lock or in a
system call would be. We wait until it is gone and another one is there: 45 s at most, 8 s when quick (which is less
than most need: then it says only that it ran). Then it is ended by ourselves.

Hung is every request that was due after that and took more than a second, or had no answer after 10 s. It is fine if
the worker is replaced in time; how long that takes, and how many hung, stands beside it.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress

from trapeze_bench import procfs
from trapeze_bench.peers import PEERS, Peer
from trapeze_bench.results import Scenario, Standing
from trapeze_bench.scenarios.setting import Setting
from trapeze_bench.scenarios.stage import Stage, contest, entries, on_stage
from trapeze_bench.scenarios.underload import under_load
from trapeze_bench.targets import until

__all__ = ["COLUMNS", "run"]

COLUMNS = {"replaced after": "s", "hung": "", "no answer": "", "requests": ""}
BOUND, BOUND_QUICK = 45.0, 8.0
RATE = 40.0
HUNG = 1.0


def run(setting: Setting) -> Scenario:
    """All contestants."""
    question = "A worker stands still: when is it replaced, and how many requests hang?"
    scenario = Scenario("frozen-worker", question, dict(COLUMNS))
    return contest(scenario, setting, entries(PEERS, lambda peer: _act(peer, setting)))


def _act(peer: Peer, setting: Setting) -> Standing:
    bound = BOUND_QUICK if setting.quick else BOUND
    with on_stage(peer, setting) as stage:
        with under_load(stage.port, min(setting.rate, RATE), setting.seed) as load:
            victim = stage.actor.workers()[0]
            born = procfs.born(victim)
            began = load.note("SIGSTOP of a worker")
            try:
                os.kill(victim, signal.SIGSTOP)
                replaced = _replaced(stage, victim, born, bound)
                load.note("replaced" if replaced else "given up")
                after = round(time.monotonic() - began, 1) if replaced else None
            finally:
                _end(victim, born)
            outcome = load.stop()
        slow = [
            took
            for result in (outcome.fresh, outcome.kept)
            for due, took in zip(result.due, result.took, strict=True)
            if due >= began and took > HUNG
        ]
        lost = outcome.lost(since=began)
        cells: dict[str, float | int | str | None] = {
            "replaced after": after,
            "hung": len(slow) + len(lost),
            "no answer": len(lost),
            "requests": outcome.requests,
        }
        verdict = f"replaced in {after:.0f} s" if after is not None else f"not replaced in {bound:g} s"
        verdict = verdict if stage.actor.lives else "down"
        timeline = outcome.timeline(setting.seed)
        return Standing(peer.name, cells, verdict, replaced and stage.actor.lives, outcome.note(), timeline=timeline)


def _replaced(stage: Stage, victim: int, born: int | None, bound: float) -> bool:
    def over() -> bool:
        gone = born is None or not procfs.runs(victim, born)
        return (gone and stage.settled([victim])) or not stage.actor.lives

    return until(over, "", patience=bound, must=False, pause=0.1) and stage.actor.lives


def _end(victim: int, born: int | None) -> None:
    if born is not None and procfs.runs(victim, born):
        with suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
