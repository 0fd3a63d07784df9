"""Reloads under load: does anybody lose a request, or wait for long?

Half of the requests come on new connections, half on 32 kept ones, at a fixed rate, whatever becomes of the earlier
ones. After a time without a reload the code on the disk gets another version and a reload is asked for, five times over
(twice when quick); each is waited for until all old workers have ended and as many new ones are there, 20 s at most.

Lost is whatever is not one complete 200: refused, reset, closed, timed out after 10 s, another status. A kept
connection that is closed while no request is under way is no loss. A stall is a request that took half a second longer
than the longest without a reload. In the end all workers are asked for their version: old code is no reload.
"""

from __future__ import annotations

import time

from trapeze_bench.loads import Period, quantile
from trapeze_bench.peers import PEERS, Peer
from trapeze_bench.results import Scenario, Standing
from trapeze_bench.scenarios.setting import Setting
from trapeze_bench.scenarios.stage import Stage, contest, entries, on_stage
from trapeze_bench.scenarios.underload import Both, Outcome, under_load

__all__ = ["COLUMNS", "run"]

COLUMNS = {
    "lost, fresh": "",
    "lost, kept": "",
    "requests": "",
    "longest": "ms",
    "longest without": "ms",
    "p99.9": "ms",
    "p99.9 without": "ms",
    "a reload": "s",
    "new code": "",
}
PATIENCE = 20.0
"""Seconds for a reload."""
STALL = 0.5


def run(setting: Setting) -> Scenario:
    """All contestants."""
    scenario = Scenario("reload", "What does a reload cost the requests that come meanwhile?", dict(COLUMNS))
    return contest(scenario, setting, entries(PEERS, lambda peer: _act(peer, setting)))


def _act(peer: Peer, setting: Setting) -> Standing:
    with on_stage(peer, setting) as stage:
        with under_load(stage.port, setting.rate, setting.seed) as load:
            began = time.monotonic()
            time.sleep(setting.watched)
            quiet = Period(began, time.monotonic())
            rolled = []
            for number in range(2 if setting.quick else 5):
                rolled.append(_rolled(stage, load, str(number + 2)))
                time.sleep(0.5)
            versions = stage.answers(enough=lambda found: _all_new(found, stage))
            outcome = load.stop()
        new = _all_new(versions, stage)
        return _judged(stage, outcome, quiet, rolled, new, setting)


def _rolled(stage: Stage, load: Both, version: str) -> tuple[Period, bool]:
    """Deploy and reload. Is it done?"""
    stage.code.deploy(version)
    old = stage.actor.workers()
    began = load.note("reload")
    stage.actor.reload()
    done = stage.new_only(old, PATIENCE)
    return Period(began, load.note("all workers are new" if done else "given up")), done


def _all_new(versions: dict[int, str], stage: Stage) -> bool:
    current = [versions.get(pid) for pid in stage.actor.workers()]
    return len(current) == stage.wanted and all(found == stage.code.version for found in current)


def _judged(
    stage: Stage, outcome: Outcome, quiet: Period, rolled: list[tuple[Period, bool]], new: bool, setting: Setting
) -> Standing:
    periods = [period for period, _ in rolled]
    since = periods[0].began
    during, without = outcome.took(*periods), outcome.took(quiet)
    lost = outcome.lost(since=since)
    before = len(outcome.lost()) - len(lost)
    done = all(each for _, each in rolled)
    cells: dict[str, float | int | str | None] = {
        "lost, fresh": len(outcome.lost("fresh", since)),
        "lost, kept": len(outcome.lost("kept", since)),
        "requests": outcome.requests,
        "longest": round(1000 * during[-1], 1) if during else None,
        "longest without": round(1000 * without[-1], 1) if without else None,
        "p99.9": round(1000 * quantile(during, 0.999), 1) if during else None,
        "p99.9 without": round(1000 * quantile(without, 0.999), 1) if without else None,
        "a reload": round(sum(each.ended - each.began for each in periods) / len(periods), 2) if done else None,
        "new code": "yes" if new else "no",
    }
    stall = during[-1] - without[-1] if during and without else 0.0
    faults = [
        "down" if not stage.actor.lives else "",
        f"{len(lost)} lost" if lost else "",
        "" if done or not stage.actor.lives else f"not done in {PATIENCE:g} s",
        "old code" if not new and stage.actor.lives else "",
        f"stalls for {during[-1]:.1f} s" if stall > STALL else "",
    ]
    verdict = ", ".join(filter(None, faults)) or "ok"
    note = "; ".join(filter(None, [outcome.note(since), f"{before} lost before any reload" if before else ""]))
    return Standing(stage.peer.name, cells, verdict, verdict == "ok", note, timeline=outcome.timeline(setting.seed))
