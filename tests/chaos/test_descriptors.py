"""Two hundred rounds of reload, scale, restart and crash: the supervisor holds as much as before."""

from __future__ import annotations

import os
import signal
import socket
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos.settings import ROUNDS
from tests.support.server import Listener, Trapeze
from tests.support.wait import until

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.timeout(2 * ROUNDS + 60)]

APP = """
def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""

STEPS = ("reload", "scale?count=3", "restart", "kill", "rollback", "scale?count=2")


def held(pid: int) -> Counter[str]:
    """What a process holds: descriptors by what they lead to (numbers left out), its threads, its children."""
    found: Counter[str] = Counter()
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            target = os.readlink(f"/proc/{pid}/fd/{name}")
        except FileNotFoundError:
            continue
        found["fd " + target.partition(":[")[0].partition(" (deleted)")[0]] += 1
    for task in os.listdir(f"/proc/{pid}/task"):
        found["thread"] += 1
        found["child"] += len(Path(f"/proc/{pid}/task/{task}/children").read_text().split())
    return found


def settled(server: Trapeze) -> bool:
    """Two workers, the heir of their zygote, which comes last, and nobody on the way."""
    service = server.service()
    heirs = {each["generation"] for each in service["standby"] if each["role"] == "heir"}
    states = [each["state"] for each in (*service["processes"], *service["standby"])]
    return (
        service["ready"] == 2 == len(service["processes"])
        and set(states) == {"READY"}
        and (service["generation"] in heirs)
    )


def one_round(server: Trapeze, step: str) -> None:
    """Do it, and see that it was done."""
    if step == "kill":
        os.kill(server.pids()[0], signal.SIGKILL)
        server.ready()
        return
    answer = server.request("POST", f"/services/web/{step}{'&' if '?' in step else '?'}wait=60", timeout=90)
    assert answer.status_code == 200, (step, answer.text)


@pytest.fixture
def server(run_dir: Path, tcp: Callable[..., Listener], trapeze: Callable[..., Trapeze]) -> Trapeze:
    """A supervisor that has done everything once, so that all that it keeps is there."""
    (run_dir / "tiny.py").write_text(APP)
    made = trapeze("serve", "tiny:app", "--app-dir", str(run_dir), "--workers", "2", listeners=[tcp()], cwd=run_dir)
    made.expect_error(".*")
    made.ready()
    for step in STEPS * 2:
        one_round(made, step)
    until(lambda: settled(made), what="two workers")
    until(lambda: held(made.pid)["child"] == family(made), what="what zygotes fork in advance, when nobody asks them")
    return made


def family(server: Trapeze) -> int:
    """Children, when all is quiet: the keeper, workers, heirs, and for each zygote one more that was forked ahead."""
    service = server.service()
    zygotes = sum(each["role"] == "zygote" for each in service["standby"])
    return 1 + len(service["processes"]) + len(service["standby"]) + zygotes


def standing_by(server: Trapeze) -> list[str]:
    """What has been imported and does not serve."""
    return [f"{each['role']}.{each['generation']} {each['state']}" for each in server.service()["standby"]]


def test_nothing_piles_up(server: Trapeze) -> None:
    before, there = held(server.pid), standing_by(server)
    rounds = STEPS * (ROUNDS // len(STEPS))

    for step in rounds:
        one_round(server, step)

    until(lambda: settled(server), what="two workers")
    what = f"no more than {before} with {there}, is {held(server.pid)} with {standing_by(server)}"
    until(lambda: not held(server.pid) - before, timeout=15, what=what)


def connections(server: Trapeze) -> int:
    """To the control socket, those included whose client has gone and that the supervisor has not closed yet."""
    lines = Path("/proc/net/unix").read_text().splitlines()
    connected = [fields[7] for fields in map(str.split, lines) if len(fields) > 7 and fields[5] == "03"]
    return sum(Path(path).parent == server.runtime_dir for path in connected)


def test_what_is_held_would_be_seen(server: Trapeze) -> None:
    """A connection to the control socket that stays open is one descriptor more."""
    # Or the end of the last one would make up for it.
    until(lambda: not connections(server), what="the control socket to be at rest")
    before = held(server.pid)

    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(server.door))
        until(lambda: held(server.pid) - before, what="the connection")
        assert connections(server) == 1

    until(lambda: not held(server.pid) - before, what="its end")
