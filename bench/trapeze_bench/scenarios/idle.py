"""Nobody asks anything: what do the processes do all day, and what do they hold?

When all workers have answered once and three seconds have passed, all processes are watched for the time of a period:
voluntary context switches of all threads (each is a sleep that ended) and processor time, of the workers, and of all
others: master, arbiter, supervisor, keeper, zygote, whatever there is. Memory is private (what would be free if
the process alone were gone) and PSS (with its share of what it has in common with others), after that.

There is no right or wrong here; a processor that is woken without need is one that cannot sleep.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from trapeze_bench import procfs
from trapeze_bench.peers import PEERS, Peer
from trapeze_bench.results import Scenario, Standing
from trapeze_bench.scenarios.setting import Setting
from trapeze_bench.scenarios.stage import Stage, contest, entries, on_stage

__all__ = ["COLUMNS", "parted", "run"]

COLUMNS = {
    "wake-ups, supervisor": "/s",
    "wake-ups, workers": "/s",
    "CPU, supervisor": "%",
    "CPU, workers": "%",
    "private, supervisor": "MiB",
    "PSS, supervisor": "MiB",
    "PSS, workers": "MiB",
}
SETTLE = 3.0


def run(setting: Setting) -> Scenario:
    """All contestants."""
    scenario = Scenario("idle", "What do the supervisor and its workers cost when nobody asks?", dict(COLUMNS))
    return contest(scenario, setting, entries(PEERS, lambda peer: _act(peer, setting)))


def parted(stage: Stage) -> tuple[list[int], list[int]]:
    """The workers, and all others."""
    workers = stage.actor.workers()
    everybody = [stage.actor.server.pid, *procfs.descendants(stage.actor.server.pid)]
    return workers, [pid for pid in everybody if pid not in workers]


def _act(peer: Peer, setting: Setting) -> Standing:
    with on_stage(peer, setting) as stage:
        time.sleep(SETTLE)
        workers, others = parted(stage)
        before, began = (_activity(workers), _activity(others)), time.monotonic()
        time.sleep(setting.watched)
        passed = time.monotonic() - began
        now = _activity(workers), _activity(others)
        rates = [(end[0] - start[0]) / passed for start, end in zip(before, now, strict=True)]
        shares = [100 * (end[1] - start[1]) / passed for start, end in zip(before, now, strict=True)]
        memory = [[procfs.memory(pid) for pid in pids] for pids in (workers, others)]
    cells: dict[str, float | int | str | None] = {
        "wake-ups, supervisor": round(rates[1], 2),
        "wake-ups, workers": round(rates[0], 2),
        "CPU, supervisor": round(shares[1], 3),
        "CPU, workers": round(shares[0], 3),
        "private, supervisor": round(sum(each.private for each in memory[1]), 1),
        "PSS, supervisor": round(sum(each.pss for each in memory[1]), 1),
        "PSS, workers": round(sum(each.pss for each in memory[0]), 1),
    }
    total = sum(each.pss for side in memory for each in side)
    return Standing(peer.name, cells, f"{sum(rates):.1f} wake-ups/s, {total:.0f} MiB")


def _activity(pids: Iterable[int]) -> tuple[int, float]:
    """Wake-ups and seconds of processor time, of all together."""
    found = [procfs.activity(pid) for pid in pids]
    return sum(each.wakeups for each in found), sum(each.cpu for each in found)
