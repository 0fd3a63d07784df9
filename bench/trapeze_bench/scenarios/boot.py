"""From exec to the first answer, and to an answer of every worker.

Each is started five times (once when quick), after a start that does not count: files are in memory and compiled. The
first answer is asked for every millisecond; that all have answered is known to some 30 ms, by requests of 20 ms each
of which several are sent at once, for 10 s at most. Shown is the median.

There is no right or wrong here.
"""

from __future__ import annotations

import statistics
import tempfile
import time

from trapeze_bench.ending import adopting
from trapeze_bench.peers import PEERS, Peer
from trapeze_bench.results import Scenario, Standing
from trapeze_bench.scenarios.code import Code
from trapeze_bench.scenarios.setting import Setting
from trapeze_bench.scenarios.stage import Stage, contest, entries
from trapeze_bench.served import Served
from trapeze_bench.targets import free_port

__all__ = ["COLUMNS", "run"]

COLUMNS = {"first answer": "s", "least": "s", "greatest": "s", "all workers": "s", "starts": ""}
PATIENCE = 10.0


def run(setting: Setting) -> Scenario:
    """All contestants."""
    scenario = Scenario("boot", "How long from exec to the first answer, and to all workers?", dict(COLUMNS))
    return contest(scenario, setting, entries(PEERS, lambda peer: _act(peer, setting)))


def _act(peer: Peer, setting: Setting) -> Standing:
    with tempfile.TemporaryDirectory(prefix="trapeze-code-") as directory:
        code = Code(directory, "shop", "shop_views")
        found = [_start(peer, setting, code) for _ in range(2 if setting.quick else 6)][1:]
    first = [each for each, _ in found]
    whole = [each for _, each in found if each is not None]
    cells: dict[str, float | int | str | None] = {
        "first answer": round(statistics.median(first), 3),
        "least": round(min(first), 3),
        "greatest": round(max(first), 3),
        "all workers": round(statistics.median(whole), 3) if len(whole) == len(found) else None,
        "starts": len(found),
    }
    return Standing(peer.name, cells, f"{statistics.median(first):.2f} s")


def _start(peer: Peer, setting: Setting, code: Code) -> tuple[float, float | None]:
    served = Served(f"shop:{peer.interface}", peer.interface, setting.workers, app_dir=code.directory)
    with (
        adopting(),
        tempfile.TemporaryDirectory(prefix="trapeze-run-") as home,
        peer.launch(served, free_port(), home) as actor,
    ):
        first = actor.server.first_answer()
        found = Stage(peer, actor, code, home).answers(PATIENCE)
        whole = time.monotonic() - actor.server.began
        return first, whole if len(found) >= setting.workers else None
