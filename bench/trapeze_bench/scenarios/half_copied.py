"""A release that is half copied, no reload asked for, and workers that die meanwhile: whose code do the new ones take?

Under load, one module is broken on the disk: first the module of the views, which the app imports when the first
request comes (as frameworks do), and in a second run, with everything started anew, the module of the app. Then every
worker is killed by SIGKILL, one after the other, five seconds apart (two when quick), each when it has served
some requests; at the end it is counted who still answers with a 200.

Failed is every request without an answer or with one that is no 200. A killed worker may take one request with it: so
many as were killed are not held against anybody.
"""

from __future__ import annotations

import time
from contextlib import suppress

from trapeze_bench.ending import kill_and_wait
from trapeze_bench.natives import NATIVES
from trapeze_bench.peers import PEERS, Peer, native, ours
from trapeze_bench.results import Scenario, Standing
from trapeze_bench.scenarios.setting import Setting
from trapeze_bench.scenarios.stage import contest, entries, on_stage
from trapeze_bench.scenarios.underload import Outcome, under_load

__all__ = ["COLUMNS", "run"]

COLUMNS = {
    "failed, views": "",
    "capacity, views": "workers",
    "failed, app": "",
    "capacity, app": "workers",
    "killed": "",
    "requests": "",
}
RATE = 100.0
APART, APART_QUICK = 5.0, 2.0
MORE = (
    ours("trapeze+gunicorn,warm", "gunicorn", "wsgi", module="gunicorn", more={"warm": "shop:warm"}),
    native("gunicorn-gthread,preload", NATIVES["gunicorn-gthread"], "wsgi", "--preload", preloads=True),
)
"""What each has against it that is not its default: modules named that are to be imported early, one import for all."""


def run(setting: Setting) -> Scenario:
    """All contestants."""
    question = "The code on the disk is broken, nobody asks for a reload, and workers die: what do the new ones serve?"
    scenario = Scenario("half-copied", question, dict(COLUMNS))
    peers = (PEERS[0], MORE[0], *PEERS[1:], MORE[1])
    return contest(scenario, setting, entries(peers, lambda peer: _act(peer, setting)))


def _act(peer: Peer, setting: Setting) -> Standing:
    views, capacity_views, killed = _phase(peer, setting, "shop_views")
    app, capacity_app, killed_app = _phase(peer, setting, "shop")
    cells: dict[str, float | int | str | None] = {
        "failed, views": len(views.lost()),
        "capacity, views": capacity_views,
        "failed, app": len(app.lost()),
        "capacity, app": capacity_app,
        "killed": killed + killed_app,
        "requests": views.requests + app.requests,
    }
    workers = setting.workers
    phases = [("views", views, capacity_views, killed), ("app", app, capacity_app, killed_app)]
    faults = [_fault(what, outcome, capacity, workers, dead) for what, outcome, capacity, dead in phases]
    verdict = ", ".join(filter(None, faults)) or "ok"
    note = "; ".join(f"{what}: {found}" for what, outcome, _, _ in phases if (found := outcome.note()))
    return Standing(peer.name, cells, verdict, verdict == "ok", note, timeline=views.timeline(setting.seed))


def _phase(peer: Peer, setting: Setting, module: str) -> tuple[Outcome, int, int]:
    """What became of the requests, how many workers answer at the end, and how many were killed."""
    with on_stage(peer, setting) as stage:
        with under_load(stage.port, min(setting.rate, RATE), setting.seed) as load:
            stage.code.damage(module)
            load.note(f"{module}.py is broken")
            killed = 0
            for pid in stage.actor.workers():
                load.note("SIGKILL of a worker")
                with suppress(ProcessLookupError):  # down, or as good as
                    kill_and_wait(pid)
                    killed += 1
                time.sleep(APART_QUICK if setting.quick else APART)
            outcome = load.stop()
        return outcome, min(len(stage.answers()), stage.wanted), killed


def _fault(what: str, outcome: Outcome, capacity: int, workers: int, killed: int) -> str:
    failed = [why for _, why in sorted(outcome.lost())]
    if not capacity:
        status = failed[-1] if failed else ""
        return f"{what}: every answer {status.removeprefix('status ')}" if "status" in status else f"{what}: down"
    if capacity < workers:
        return f"{what}: {capacity} of {workers} workers"
    return f"{what}: {len(failed)} failed" if len(failed) > killed else ""
