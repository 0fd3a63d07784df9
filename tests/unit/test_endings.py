"""The words in which an end is told: who, why, and what came in place of what was waited for."""

from __future__ import annotations

from functools import partial

import pytest

from tests.support.fakehost import FakeHost
from trapeze import report
from trapeze.chronicle import Chronicle
from trapeze.events import Clock
from trapeze.lifecycle import Outcome, State
from trapeze.output import Journal
from trapeze.process import TO_DUMP, Process
from trapeze.render import status_rows
from trapeze.service import Service
from trapeze.spec import RestartSpec, ServiceSpec
from trapeze.status import ProcessStatus, ServiceStatus, Snapshot, Status, says

ONCE = RestartSpec(intensity=1)
shop = partial(ServiceSpec, app="shop:app", socket="web", preload=False, spare=False, restart=ONCE)
tool = partial(ServiceSpec, command="./tool", restart=ONCE)
BROKEN = b'X_TRAPEZE_ERROR={"message":"no module named shop"}'
REFUSED = "127.0.0.1:6379: connection refused"


class Told(FakeHost):
    """A host that writes a log; `lines` are its lines."""

    def __init__(self, spec: ServiceSpec) -> None:
        self.chronicle = Chronicle(Clock(lambda: 0.0, 0.0), Journal())
        super().__init__(spec)

    def changed(self, service: Service, process: Process, before: State | None) -> None:
        self.chronicle.process(service, process, before, quiet=False)
        super().changed(service, process, before)

    def ended(self, service: Service, process: Process) -> None:
        if process.outcome is not Outcome.DONE:
            self.chronicle.last_words(service, process)
        super().ended(service, process)

    @property
    def lines(self) -> list[str]:
        return [str(transition) for transition in self.chronicle.log.since(0)]

    @property
    def why(self) -> str:
        return report.judge(self.service)[1]


@pytest.mark.parametrize(
    ("why", "told"),
    [
        ("exited with status 3", "x exited with status 3"),
        ("killed by SIGKILL before it was ready", "x killed by SIGKILL before it was ready"),
        ("not ready in 0.5 s, killed by SIGTERM", "x not ready in 0.5 s, killed by SIGTERM"),
        ("cannot start: no such file", "x cannot start: no such file"),
        ("importing bp failed: SyntaxError", "x: importing bp failed: SyntaxError"),
        ("cannot tell whether app:either speaks WSGI or ASGI", "x: cannot tell whether app:either speaks WSGI or ASGI"),
        ("no heartbeat for 30 s, killed by SIGKILL", "x: no heartbeat for 30 s, killed by SIGKILL"),
        ("", "x"),
    ],
)
def test_who_and_why(why: str, told: str) -> None:
    """A colon where the reason does not go on from the name."""
    assert says("x", why) == told


def test_a_reason_of_the_worker() -> None:
    """In its own words, and without the exit status that every such end has."""
    host = Told(shop())
    child = host.newest()
    child.listener.on_message(BROKEN)
    child.exit(3)

    assert host.lines[-2] == "web[0] pid 1001: no module named shop"
    assert host.why == "worker 0: no module named shop"


@pytest.mark.parametrize(("status", "end"), [(-9, "killed by SIGKILL"), (0, "exited with status 0")])
def test_another_end_than_the_reason_has_is_news(status: int, end: str) -> None:
    host = Told(shop())
    child = host.newest()
    child.listener.on_message(BROKEN)
    child.exit(status)

    assert host.why == f"worker 0: no module named shop ({end})"


def test_a_zygote_is_told_like_a_worker() -> None:
    """The failure is one of the app: nobody is named there."""
    host = Told(ServiceSpec(app="shop:app", socket="web", restart=ONCE))
    child = host.newest()
    child.listener.on_message(BROKEN)
    child.exit(3)

    assert "web zygote pid 1001: no module named shop" in host.lines
    assert "last output of web zygote pid 1001:" in host.lines
    assert host.why == "no module named shop"


def test_a_command_is_no_worker() -> None:
    host = Told(tool())
    host.newest().exit(4)

    assert host.why == "process 0 exited with status 4"


def test_the_last_answer_of_the_probe_says_why_it_was_not_ready() -> None:
    """In the log, in the status, and in the reason of its failure."""
    host = Told(tool(ready="tcp://127.0.0.1:6379", start_timeout=1.0, stop_timeout=5.0))
    host.probes[0][0].said = REFUSED
    host.go(1.0)

    assert host.lines[-1] == f"web[0] pid 1001 STOPPING: not ready in 1 s ({REFUSED})"
    host.newest().exit(-15)
    assert host.lines[-2] == f"web[0] pid 1001 not ready in 1 s ({REFUSED}), killed by SIGTERM"
    assert host.why == f"process 0 not ready in 1 s ({REFUSED}), killed by SIGTERM"


def test_it_is_not_forgotten_when_it_does_not_leave_either() -> None:
    host = Told(tool(ready="tcp://127.0.0.1:6379", start_timeout=1.0, stop_timeout=2.0))
    host.probes[0][0].said = REFUSED
    host.go(1.0)
    host.go(2.0)
    host.newest().exit(-9)

    late = f"not ready in 1 s ({REFUSED}), still there 2 s after the stop signal"
    assert host.why == f"process 0 {late}, killed by SIGKILL"


def test_one_that_was_ready_and_does_not_leave() -> None:
    """What it had said while it started is no reason of this."""
    host = Told(tool(stop_timeout=2.0))
    host.newest().listener.on_message(b"STATUS=fine")
    host.service.disable()
    host.go()
    host.go(2.0)

    assert host.lines[-1] == "web[0] pid 1001 KILLING: still there 2 s after the stop signal"


def test_a_worker_that_says_what_it_is_at() -> None:
    """The same for one that is killed at once; without end nothing is repeated."""
    host = Told(shop(start_timeout=30.0))
    child = host.newest()
    child.listener.on_message(b"STATUS=" + b"loads the model " * 50)
    host.go(30.0)
    host.go(TO_DUMP)
    child.exit(-9)

    assert host.why.startswith("worker 0 not ready in 30 s (loads the model loads")
    assert host.why.endswith(" [...]), killed by SIGKILL")
    assert len(host.why) < 300


def test_nothing_was_answered() -> None:
    host = Told(tool(ready="tcp://127.0.0.1:6379", start_timeout=0.5))
    host.go(0.5)
    host.newest().exit(-15)

    assert host.why == "process 0 not ready in 0.5 s, killed by SIGTERM"


STEPS = ["echo migrating", "sleep 60 # " + "for a long time " * 10]


@pytest.mark.parametrize(("step", "named"), [(1, "pre_start 1 (echo migrating)"), (2, "pre_start 2")])
def test_a_step_that_takes_too_long(step: int, named: str) -> None:
    """It is never ready, only done; the log counts the steps as the failure does, which names a short command."""
    host = Told(shop(pre_start=STEPS, pre_start_timeout=0.5))
    if step == 2:
        host.newest().exit(0)
        host.go()
    pid = host.newest().pid
    host.go(0.5)
    host.newest().exit(-15)

    assert f"web pre_start {step} pid {pid} not done in 0.5 s, killed by SIGTERM" in host.lines
    assert f"last output of web pre_start {step} pid {pid}:" in host.lines
    assert host.why == f"{named} not done in 0.5 s, killed by SIGTERM"


def test_a_status_does_not_say_it_twice() -> None:
    """The probe's answer stands in the reason of its end already; that of one that starts does not."""
    late = f"not ready in 1 s ({REFUSED})"
    rows = [
        ProcessStatus(id=1, index=0, pid=7, generation=1, state="STOPPING", since=0, why=late, status=REFUSED),
        ProcessStatus(id=2, index=1, pid=8, generation=1, state="STARTING", since=0, why="spawned", status=REFUSED),
    ]
    service = ServiceStatus(
        name="x", kind="side", status=Status.STARTING, why="", since=0, want=2, ready=0, generation=1, restarts=0,
        processes=rows,
    )  # fmt: skip
    snapshot = Snapshot(
        revision=1, pid=1, name="t", version="0", since=0, config=None, services=[service], sockets=[]
    )  # fmt: skip

    shown = [row[-1] for row in status_rows(snapshot, 1.0)]

    assert shown[1:] == [late, f"spawned; {REFUSED}"]
