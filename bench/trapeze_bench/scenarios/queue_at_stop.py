"""A stop while more requests wait than there are workers: are those answered that were let in?

Twenty requests of two seconds (eight of one second when quick) are sent at once, each on a connection of its own, so
that some are under way, some accepted, and some wait in the listen queue. Half a second later SIGTERM is sent to the
process that was started. Every answer is waited for, 60 s altogether.

Lost is every request that does not get its complete 200: to its client, the connection had been made. In ASGI the two
seconds are `asyncio.sleep`, so that all are under way at once.
"""

from __future__ import annotations

import os
import signal
import socket
import time

from trapeze_bench import wire
from trapeze_bench.peers import PEERS, Peer
from trapeze_bench.results import Scenario, Standing
from trapeze_bench.scenarios.setting import Setting
from trapeze_bench.scenarios.stage import contest, entries, on_stage
from trapeze_bench.targets import until

__all__ = ["COLUMNS", "run"]

COLUMNS = {"answered": "", "lost": "", "the stop": "s"}
REQUESTS, REQUESTS_QUICK = 20, 8
SLOW, SLOW_QUICK = 2.0, 1.0
BEFORE = 0.5
PATIENCE = 60.0


def run(setting: Setting) -> Scenario:
    """All contestants."""
    question = "SIGTERM while requests are queued: how many are answered?"
    scenario = Scenario("queue-at-stop", question, dict(COLUMNS))
    return contest(scenario, setting, entries(PEERS, lambda peer: _act(peer, setting)))


def _act(peer: Peer, setting: Setting) -> Standing:
    number, slow = (REQUESTS_QUICK, SLOW_QUICK) if setting.quick else (REQUESTS, SLOW)
    with on_stage(peer, setting) as stage:
        sockets = [wire.asked(("127.0.0.1", stage.port), f"/slow?{slow}") for _ in range(number)]
        time.sleep(BEFORE)
        began = time.monotonic()
        os.kill(stage.actor.master, signal.SIGTERM)
        answered = sum([_answered(sock, began + PATIENCE) for sock in sockets])
        ended = until(lambda: not stage.actor.lives, "", patience=PATIENCE, must=False, pause=0.02)
        took = time.monotonic() - began
    cells: dict[str, float | int | str | None] = {
        "answered": answered,
        "lost": number - answered,
        "the stop": round(took, 1) if ended else None,
    }
    faults = [
        f"{number - answered} of {number} lost" if answered < number else "",
        "" if ended else f"did not end in {PATIENCE:g} s",
    ]
    verdict = ", ".join(filter(None, faults)) or "ok"
    return Standing(peer.name, cells, verdict, verdict == "ok")


def _answered(sock: socket.socket, deadline: float) -> bool:
    try:
        return wire.answer(sock, max(deadline - time.monotonic(), 0.05)).status == 200
    except OSError:
        return False
