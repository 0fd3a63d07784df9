"""Memory of the workers of an app whose import makes 100 MB of objects, preloaded and not.

After some thousand requests, each of which touches one of the objects (and so writes its reference count: the page is
no longer shared), and one full garbage collection in each worker (asked for until every worker has answered once, 20 s
at most). PSS: each page divided by the number of those who have it, so that the sum is what is really in use.

There is no right or wrong here. Beside the defaults of each, gunicorn stands there with `--preload` too, and trapeze,
which imports the app once by default, also without.
"""

from __future__ import annotations

import time

from trapeze_bench import procfs, wire
from trapeze_bench.loads import loaded
from trapeze_bench.natives import NATIVES
from trapeze_bench.openloop import Plan
from trapeze_bench.peers import PEERS, Peer, native, ours
from trapeze_bench.results import Scenario, Standing
from trapeze_bench.scenarios.idle import parted
from trapeze_bench.scenarios.setting import Setting
from trapeze_bench.scenarios.stage import Stage, contest, entries, on_stage

__all__ = ["COLUMNS", "run"]

COLUMNS = {"workers": "MiB", "others": "MiB", "together": "MiB", "preloaded": "", "requests": "", "collected": ""}
PATIENCE = 20.0
RATE = 500.0
MORE = (
    ours("trapeze+gunicorn,no-preload", "gunicorn", "wsgi", module="gunicorn", more={"preload": False}),
    native("gunicorn-gthread,preload", NATIVES["gunicorn-gthread"], "wsgi", "--preload", preloads=True),
)


def run(setting: Setting) -> Scenario:
    """All contestants."""
    question = "How much memory do the workers of a large app need, after some requests?"
    scenario = Scenario("memory", question, dict(COLUMNS))
    peers = (PEERS[0], MORE[0], *PEERS[1:], MORE[1])
    return contest(scenario, setting, entries(peers, lambda peer: _act(peer, setting)))


def _act(peer: Peer, setting: Setting) -> Standing:
    with on_stage(peer, setting, "bulky") as stage:
        with loaded(Plan(stage.port, max(setting.rate, RATE), seed=setting.seed)) as load:
            time.sleep(setting.watched)
            result = load.stop()
        collected = _collected(stage)
        workers, others = parted(stage)
        one, other = (sum(procfs.memory(pid).pss for pid in pids) for pids in (workers, others))
    cells: dict[str, float | int | str | None] = {
        "workers": round(one, 1),
        "others": round(other, 1),
        "together": round(one + other, 1),
        "preloaded": "yes" if peer.preloads else "no",
        "requests": len(result.due),
        "collected": collected,
    }
    note = f"{len(result.lost)} requests were lost" if result.lost else ""
    return Standing(peer.name, cells, f"{one + other:.0f} MiB", note=note)


def _collected(stage: Stage) -> int:
    """A collection in each worker, as far as each answers; return in how many."""
    workers = set(stage.actor.workers())
    found: set[int] = set()
    deadline = time.monotonic() + PATIENCE
    while not found >= workers and time.monotonic() < deadline:
        # Two at once: while one worker collects, the other request is for another one.
        pair = [wire.asked(("127.0.0.1", stage.port), "/collect") for _ in range(2)]
        found |= {int(wire.answer(sock).body.split()[-1]) for sock in pair}
    return len(found & workers)
