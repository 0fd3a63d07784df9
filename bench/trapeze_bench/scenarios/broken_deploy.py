"""A deploy that cannot be imported, and a reload: is the site still there, and was anybody told?

Under load (half on new, half on kept connections) the app gets a `raise` at its end and a reload is asked for, by the
command where there is one, else by SIGHUP. Ten seconds later (four when quick, and some need seven to go down) it is
counted which workers still answer with a 200. Then the app is mended, and a reload asked for again, which has ten
seconds to bring the new version.

Failed is every request that got no answer, or one that is no 200, from the broken reload until the mended one. A
command that says that it is done (exit code 0) although the new code does not run is held against it. It is fine
if no request failed, all workers are there after the broken reload, and the mended code is served after the second.
"""

from __future__ import annotations

import textwrap
import time

from trapeze_bench.peers import PEERS, Peer, Said
from trapeze_bench.results import Scenario, Standing
from trapeze_bench.scenarios.setting import Setting
from trapeze_bench.scenarios.stage import Stage, contest, entries, on_stage
from trapeze_bench.scenarios.underload import Outcome, under_load

__all__ = ["COLUMNS", "run"]

COLUMNS = {
    "failed": "",
    "requests": "",
    "up": "",
    "capacity": "workers",
    "asked by": "",
    "exit code": "",
    "it said": "",
    "mended": "",
}
RATE = 100.0
"""Requests per second: of one that hangs a thousand are open after ten seconds."""
AFTER, AFTER_QUICK = 10.0, 4.0
MEND = 10.0
SAID = 160
"""Characters of what a command said."""


def run(setting: Setting) -> Scenario:
    """All contestants."""
    question = "The app is broken on the disk and a reload is asked for: is the site still up?"
    scenario = Scenario("broken-deploy", question, dict(COLUMNS))
    return contest(scenario, setting, entries(PEERS, lambda peer: _act(peer, setting)))


def _act(peer: Peer, setting: Setting) -> Standing:
    with on_stage(peer, setting) as stage:
        with under_load(stage.port, min(setting.rate, RATE), setting.seed) as load:
            stage.code.damage("shop")
            began = load.note("reload of broken code")
            said = stage.actor.reload()
            time.sleep(max(0.0, began + (AFTER_QUICK if setting.quick else AFTER) - time.monotonic()))
            capacity = len(stage.answers())
            ended = load.note("mended, reload")
            mended = _mended(stage)
            load.note("new code" if mended else "given up")
            outcome = load.stop()
        return _judged(stage, outcome, (began, ended), said, capacity, mended, setting)


def _mended(stage: Stage) -> bool:
    """Is a good version served after another reload?"""
    stage.code.deploy("2")
    if not stage.actor.lives:
        return False
    stage.actor.reload()
    new = stage.code.version
    found = stage.answers(MEND, enough=lambda versions: list(versions.values()).count(new) >= stage.wanted)
    return list(found.values()).count(new) >= stage.wanted


def _judged(
    stage: Stage,
    outcome: Outcome,
    period: tuple[float, float],
    said: Said,
    capacity: int,
    mended: bool,
    setting: Setting,
) -> Standing:
    failed = [(due, why) for due, why in outcome.lost() if period[0] <= due < period[1]]
    capacity = min(capacity, stage.wanted)
    cells: dict[str, float | int | str | None] = {
        "failed": len(failed),
        "requests": outcome.requests,
        "up": "yes" if capacity else "no",
        "capacity": capacity,
        "asked by": said.asked,
        "exit code": said.code,
        "it said": textwrap.shorten(said.words, SAID, placeholder=" ..."),
        "mended": "yes" if mended else "no",
    }
    faults = [
        _state(capacity, stage.wanted, [why for _, why in failed]),
        f"{len(failed)} failed" if failed and capacity else "",
        "exit code 0" if said.code == 0 else "",
        "not mended by a reload" if not mended else "",
    ]
    verdict = ", ".join(filter(None, faults)) or "ok"
    timeline = outcome.timeline(setting.seed)
    return Standing(stage.peer.name, cells, verdict, verdict == "ok", outcome.note(), timeline=timeline)


def _state(capacity: int, workers: int, failures: list[str]) -> str:
    """In a word or two; "" if all is well."""
    if capacity >= workers:
        return ""
    if capacity:
        return f"{capacity} of {workers} workers"
    if failures and failures[-1].startswith("status "):
        return f"every answer {failures[-1].removeprefix('status ')}"
    return "hangs" if failures and "timed out" in failures[-1] else "down"
