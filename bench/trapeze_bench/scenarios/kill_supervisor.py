"""SIGKILL of the master: is anything left behind, and can it be started again at once?

The process that was started is killed (by the kernel for want of memory, say). Four seconds later we look which of its
workers still run, and whether the port still answers. Then the same is started again, with the same port and
the same directories, and has twenty seconds to answer with a worker of its own.

It is fine if nothing is left and the new one answers. Workers that serve on without a master are not: nobody replaces
them, a deploy does not reach them, and where the port is theirs a new start fails.
"""

from __future__ import annotations

import time

from trapeze_bench import procfs, wire
from trapeze_bench.ending import kill_and_wait
from trapeze_bench.peers import PEERS, Actor, Peer
from trapeze_bench.results import Scenario, Standing
from trapeze_bench.scenarios.setting import Setting
from trapeze_bench.scenarios.stage import Stage, contest, entries, on_stage
from trapeze_bench.targets import until

__all__ = ["COLUMNS", "run"]

COLUMNS = {"workers left": "", "others left": "", "port answers": "", "new start": ""}
AFTER = 4.0
PATIENCE = 20.0


def run(setting: Setting) -> Scenario:
    """All contestants."""
    question = f"The master is killed: what is left after {AFTER:g} s, and does a new start succeed at once?"
    scenario = Scenario("kill-supervisor", question, dict(COLUMNS))
    return contest(scenario, setting, entries(PEERS, lambda peer: _act(peer, setting)))


def _act(peer: Peer, setting: Setting) -> Standing:
    with on_stage(peer, setting) as stage:
        workers = set(stage.actor.workers())
        below = procfs.descendants(stage.actor.master)
        kill_and_wait(stage.actor.master)
        time.sleep(AFTER)
        left = {pid for pid, at in below.items() if procfs.runs(pid, at)}
        port = _port(stage)
        again = _again(stage)
    count = len(left & workers)
    others = len(left) - count
    cells: dict[str, float | int | str | None] = {
        "workers left": count,
        "others left": others,
        "port answers": port,
        "new start": again,
    }
    faults = [
        f"{count} {'worker' if count == 1 else 'workers'} left" if count else "",
        f"{others} other {'process' if others == 1 else 'processes'} left" if others else "",
        "" if again == "ok" else "no new start",
    ]
    verdict = ", ".join(filter(None, faults)) or "ok"
    return Standing(peer.name, cells, verdict, verdict == "ok")


def _port(stage: Stage) -> str:
    try:
        wire.get(("127.0.0.1", stage.port), timeout=2.0)
    except wire.Refused:
        return "no"
    except OSError:
        return "connects, no answer"
    return "yes"


def _again(stage: Stage) -> str:
    """Start another one; "ok" if a worker of its own answers."""
    with stage.peer.launch(stage.actor.served, stage.port, stage.home) as actor:
        until(lambda: not actor.lives or _answers(actor), "", patience=PATIENCE, must=False, pause=0.05)
        if not actor.lives:
            return "ends: " + _reason(actor)
        return "ok" if _answers(actor) else f"no answer in {PATIENCE:g} s"


def _answers(actor: Actor) -> bool:
    try:
        answer = wire.get(("127.0.0.1", actor.server.port), timeout=2.0)
    except OSError:
        return False
    return answer.status == 200 and int(answer.body.split()[-1]) in procfs.descendants(actor.server.pid)


def _reason(actor: Actor) -> str:
    output = actor.server.output()
    return "address in use" if "in use" in output.lower() else f"status {actor.server.popen.returncode}"
