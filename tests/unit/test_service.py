"""Histories: what happens to a service, and what it does about it. No processes, no clock but the test's."""

from __future__ import annotations

import errno
import signal
from functools import partial

import pytest

from tests.support.fakehost import FakeHost
from trapeze import report, restart
from trapeze.planner import HEAD_START
from trapeze.prelude import DUMP_SIGNAL
from trapeze.process import TO_DUMP
from trapeze.spec import RestartSpec, ServiceSpec
from trapeze.status import Status

shop = partial(ServiceSpec, app="shop:app", socket="web", preload=False, spare=False)
WEB = shop(workers=2)


def status(host: FakeHost) -> tuple[Status, str]:
    return report.judge(host.service)


def test_starts_and_runs() -> None:
    """Both spawned at once; RUNNING when both have said so."""
    host = FakeHost(WEB)
    assert host.states() == ["0.1 STARTING", "1.1 STARTING"]
    assert status(host) == (Status.STARTING, "0 of 2 ready")

    host.all_ready()

    assert status(host) == (Status.RUNNING, "2 of 2 ready")
    assert host.service.good == 1


def test_killed_worker_is_replaced_at_once() -> None:
    """A healthy worker that dies out of the blue costs no delay and is forgiven."""
    host = FakeHost(WEB)
    host.all_ready()
    host.go(60.0)

    host.newest().exit(-9)
    assert status(host) == (Status.DEGRADED, "1 of 2 ready, worker 1 killed by SIGKILL")
    host.go()

    assert host.states() == ["0.1 READY", "1.1 STARTING"]
    assert host.service.ledger.restarts == 1
    assert host.service.ledger.history is restart.FRESH
    host.all_ready()
    assert status(host) == (Status.RUNNING, "2 of 2 ready")


def test_crash_loop_backs_off_and_fails() -> None:
    """Start failures: the first is free, then delays; after `intensity` FAILED, then one try per cap, then forgiven."""
    policy = RestartSpec(intensity=3, backoff=1.0, cap=10.0, healthy=5.0)
    host = FakeHost(shop(workers=1, restart=policy))
    host.newest().exit(3)
    host.go()
    assert host.states() == ["0.1 STARTING"]

    host.newest().exit(3)
    host.go()
    assert host.states() == []
    assert host.service.wake_at == pytest.approx(host.clock + 0.5)

    host.go(0.5)
    host.newest().exit(3)
    host.go()
    assert status(host)[0] is Status.FAILED
    assert "exited with status 3" in status(host)[1]

    host.go(9.9)
    assert host.states() == []
    host.go(0.1)
    assert host.states() == ["0.1 STARTING"]
    host.all_ready()
    host.go(4.9)
    assert status(host)[0] is Status.FAILED
    assert host.service.wake_at == pytest.approx(host.clock + 0.1)
    host.go(0.1)
    assert status(host) == (Status.RUNNING, "1 of 1 ready")


def test_reload_rolls() -> None:
    """One new one first; then one old one leaves; and so on. Never fewer ready than wanted."""
    host = FakeHost(WEB)
    host.all_ready()

    host.service.adopt(host.make(WEB, 2))
    host.go()
    assert host.states() == ["0.1 READY", "0.2 STARTING", "1.1 READY"]
    assert status(host)[0] is Status.ROLLING
    host.newest().ready()
    host.go()
    assert host.states() == ["0.1 STOPPING", "0.2 READY", "1.1 READY", "1.2 STARTING"]

    host.roll_out()
    assert host.states() == ["0.2 READY", "1.2 READY"]
    assert host.service.good == 2
    assert list(host.service.generations) == [2]


def test_broken_reload_falls_back() -> None:
    """The old generation serves throughout; the reason is kept."""
    spec = shop(
        workers=2,
        restart=RestartSpec(intensity=2, backoff=1.0),
    )
    host = FakeHost(spec)
    host.all_ready()
    host.service.adopt(host.make(spec, 2))
    host.go()

    # It says itself why it cannot start: no second try.
    child = host.newest()
    child.listener.on_message(b'X_TRAPEZE_ERROR={"message":"no module named shop","traceback":"Traceback\\nboom"}')
    child.exit(3)
    host.go(1.0)

    assert host.states() == ["0.1 READY", "1.1 READY"]
    assert host.service.want.generation == 1
    assert host.rollbacks == [(2, "worker 0: no module named shop")]
    assert list(host.service.ledger.output) == ["Traceback", "boom"]
    assert status(host)[0] is Status.RUNNING


def test_scale_during_reload_during_crash() -> None:
    """Everything composes: it is just another plan."""
    host = FakeHost(WEB)
    host.all_ready()
    host.service.adopt(host.make(WEB, 2))
    host.go()
    host.service.scale(3)
    host.newest().exit(-11)
    host.go()

    host.roll_out()

    assert host.states() == ["0.2 READY", "1.2 READY", "2.2 READY"]


def test_second_reload_during_a_reload() -> None:
    """The newest generation wins; the half-made one leaves."""
    host = FakeHost(WEB)
    host.all_ready()
    host.service.adopt(host.make(WEB, 2))
    host.go()
    host.service.adopt(host.make(WEB, 3))
    host.go()

    assert "0.2 STOPPING" in host.states()
    host.roll_out()
    assert host.states() == ["0.3 READY", "1.3 READY"]


def test_scale_survives_reload_unless_the_file_changed() -> None:
    """A scale done at run time stays; a new number in the file wins."""
    host = FakeHost(WEB)
    host.service.scale(4)
    host.service.adopt(host.make(WEB, 2))
    assert host.service.want.count == 4

    host.service.adopt(host.make(shop(workers=3), 3))
    assert host.service.want.count == 3


def test_restart_is_make_before_break() -> None:
    """Restart of one worker: the replacement first."""
    host = FakeHost(WEB)
    host.all_ready()
    first = min(host.service.processes)

    host.service.restart(first)
    host.go()
    assert host.states() == ["0.1 READY", "0.1 STARTING", "1.1 READY"]
    host.roll_out()

    assert host.states() == ["0.1 READY", "1.1 READY"]
    assert first not in host.service.processes
    assert host.service.ledger.restarts == 0


def test_side_service_stops_before_it_starts() -> None:
    """Two Redis at once are wrong."""
    spec = ServiceSpec(command="redis-server", ready="notify")
    host = FakeHost(spec)
    host.all_ready()

    host.service.restart()
    host.go()
    assert host.states() == ["0.1 STOPPING"]
    host.leave_all()
    assert host.states() == ["0.1 STARTING"]


def test_stop_and_start() -> None:
    """A stopped service stays stopped whatever happens, until somebody starts it."""
    host = FakeHost(WEB)
    host.all_ready()
    host.service.disable()
    host.go()
    assert {state.split()[1] for state in host.states()} == {"STOPPING"}
    host.leave_all()
    assert host.service.gone
    host.go(1000.0)
    assert host.states() == []
    assert status(host) == (Status.STOPPED, "stopped")

    host.service.enable()
    host.go()
    assert len(host.states()) == 2


def test_start_timeout() -> None:
    """Not ready in time: asked for its stacks, killed half a second later, counted as a start failure."""
    spec = shop(start_timeout=30.0, stop_timeout=10.0)
    host = FakeHost(spec)
    child = host.newest()
    assert host.service.wake_at == pytest.approx(host.clock + 30.0)

    host.go(30.0)
    assert child.signals == [DUMP_SIGNAL, signal.SIGCONT]
    host.go(TO_DUMP)
    assert child.signals == [DUMP_SIGNAL, signal.SIGCONT, -9]
    child.exit(-9)

    assert "killed by SIGKILL" in host.service.ledger.failure
    assert host.service.ledger.history.streak == 1


def test_kill_is_repeated() -> None:
    """A process in uninterruptible sleep gets SIGKILL again every 5 s."""
    host = FakeHost(shop(stop_timeout=1.0))
    host.all_ready()
    child = host.newest()
    host.service.disable()
    host.go()
    host.go(1.0)
    host.go(5.0)

    assert child.signals == [15, -9, -9]


def test_force() -> None:
    """Out of patience: SIGKILL now."""
    host = FakeHost(WEB)
    host.all_ready()
    host.service.disable()
    host.service.force()

    assert all(child.signals == [-9] for child in host.children.values())


def test_spawn_failure_is_an_event() -> None:
    """EAGAIN, ENOENT at spawn: a start failure with the reason, not an exception."""
    policy = RestartSpec(intensity=2)
    host = FakeHost(ServiceSpec(command="redis-server", enabled=False, restart=policy))
    host.fail_spawns = [OSError(errno.EAGAIN, "Resource temporarily unavailable")] * 2
    host.service.enable()
    host.go()
    host.go(1.0)

    assert status(host)[0] is Status.FAILED
    assert "Resource temporarily unavailable" in status(host)[1]
    assert host.children == {}


def test_task_runs_once() -> None:
    """restart = "never": exit 0 is done, and nothing follows."""
    host = FakeHost(ServiceSpec(command="./migrate", restart="never"))
    assert host.states() == ["0.1 READY"]

    host.newest().exit(0)
    host.go(1000.0)

    assert host.states() == []
    assert status(host) == (Status.DONE, "exited 0")
    assert report.is_up(host.service)
    assert host.service.ledger.restarts == 0


def test_failed_task_is_failed() -> None:
    """A task that exits 3 is FAILED and not tried again; `start` tries again."""
    host = FakeHost(ServiceSpec(command="./migrate", restart="never"))
    assert not report.is_up(host.service)

    host.newest().exit(3)
    host.go(1000.0)
    assert status(host) == (Status.FAILED, "process 0 exited with status 3")
    assert not report.is_up(host.service)

    host.service.enable()
    host.go()
    assert host.states() == ["0.1 READY"]


def test_on_failure_policy() -> None:
    """Exit 0 ends it; another status restarts it."""
    host = FakeHost(ServiceSpec(command="./job", restart="on-failure"))
    host.newest().exit(1)
    host.go()
    assert host.states() == ["0.1 READY"]
    host.newest().exit(0)
    host.go(100.0)
    assert host.states() == []


def test_always_means_exit_0_too() -> None:
    """A server that leaves at once with 0, again and again, is a loop like any other."""
    host = FakeHost(ServiceSpec(command="true", restart=RestartSpec(intensity=3, backoff=0.1)))
    for _ in range(3):
        host.newest().exit(0)
        host.go(1.0)

    assert status(host)[0] is Status.FAILED


def test_pre_start_runs_first_and_in_order() -> None:
    """Each step must exit 0 before the next; then the workers."""
    spec = shop(workers=2, pre_start=["step one", "step two"])
    host = FakeHost(spec)
    assert [list(child.launch.argv) for child in host.children.values()] == [["step", "one"]]
    assert status(host) == (Status.STARTING, "waiting for pre_start 1 of 2: step one")

    host.newest().exit(0)
    host.go()
    assert host.newest().launch.argv == ["step", "two"]
    assert host.states() == []
    host.newest().exit(0)
    host.go()
    assert host.states() == ["0.1 STARTING", "1.1 STARTING"]


def test_pre_start_failure_counts() -> None:
    """A step that fails is final: it is not run again and again, only once per cap."""
    spec = shop(
        pre_start="migrate",
        restart=RestartSpec(intensity=9, cap=30.0),
    )
    host = FakeHost(spec)
    host.newest().exit(1)
    host.go(29.0)
    assert host.children == {}

    assert status(host)[0] is Status.FAILED
    assert "pre_start 1 (migrate) exited with status 1" in status(host)[1]


def test_pre_start_of_a_broken_reload() -> None:
    """A migration that fails on reload leaves the old generation alone."""
    host = FakeHost(shop())
    host.all_ready()
    host.service.adopt(host.make(shop(pre_start="false"), 2))
    host.go()
    host.newest().exit(1)
    host.go()

    assert host.states() == ["0.1 READY"]
    assert host.service.want.generation == 1


def test_stop_during_pre_start() -> None:
    """A step of a service that is stopped has to go; nothing follows it."""
    host = FakeHost(shop(pre_start="migrate"))
    step = host.newest()
    host.service.disable()
    host.go()
    assert step.signals == [15]
    step.exit(-15)
    host.go()

    assert host.service.gone
    assert not host.service.ledger.history.streak


def test_waits_for_others() -> None:
    """`after`: nothing starts, and the status says for whom it waits."""
    host = FakeHost(shop(after=["redis"]))
    assert host.children == {}
    assert status(host) == (Status.STARTING, "waiting for redis")

    host.service.waiting_for = ()
    host.go()
    assert host.states() == ["0.1 STARTING"]


def test_probe_decides() -> None:
    """A command with `ready` is asked until it answers; one without counts when it runs."""
    host = FakeHost(ServiceSpec(command="redis-server", ready="tcp://127.0.0.1:6379"))
    assert host.states() == ["0.1 STARTING"]
    process, text = host.probes[0]
    assert text == "tcp://127.0.0.1:6379"

    host.service.became_ready(process)

    assert host.states() == ["0.1 READY"]
    assert "probe stopped" in host.log


def test_late_ready_of_a_stopping_one_is_nothing() -> None:
    """READY=1 crosses with the stop."""
    host = FakeHost(shop())
    child = host.newest()
    host.service.disable()
    host.go()
    child.ready()

    assert host.states() == ["0.1 STOPPING"]


def test_leaves_of_its_own_accord() -> None:
    """STOPPING=1 then exit 0: replaced at once, no failure counted."""
    host = FakeHost(WEB)
    host.all_ready()
    child = host.newest()
    child.listener.on_message(b"STOPPING=1")
    host.go()
    assert "1.1 STARTING" in host.states()
    assert child.signals == []
    child.exit(0)
    host.go()

    assert not host.service.ledger.history.streak


def test_extend_moves_the_deadline() -> None:
    """EXTEND_TIMEOUT_USEC: more time to start."""
    host = FakeHost(shop(start_timeout=10.0))
    host.go(9.0)
    host.newest().listener.on_message(b"EXTEND_TIMEOUT_USEC=30000000")
    host.go()

    assert host.service.wake_at == pytest.approx(host.clock + 30.0)


def test_first_start_is_paced() -> None:
    """As many as there are processors; the others when one is ready, or after a moment."""
    spec = shop(workers=4)
    host = FakeHost(spec, processors=2)
    assert len(host.states()) == 2
    assert host.service.wake_at == pytest.approx(host.clock + HEAD_START)

    host.newest().ready()
    host.go()
    assert len(host.states()) == 4


def test_slow_first_start_is_not_held_back() -> None:
    """Imports that wait for something else may wait together."""
    host = FakeHost(shop(workers=4), processors=1)
    assert len(host.states()) == 1
    host.go(HEAD_START)

    assert len(host.states()) == 4


def test_settled_when_the_old_one_has_heard() -> None:
    """A worker that was asked to leave may accept until it says that it has heard so."""
    host = FakeHost(shop())
    host.all_ready()
    old = host.newest()
    host.service.adopt(host.make(shop(), 2))
    host.go()
    host.newest().ready()
    host.go()
    assert host.states() == ["0.1 STOPPING", "0.2 READY"]
    assert not host.service.is_settled()

    old.listener.on_message(b"STOPPING=1")

    assert host.service.is_settled()


def test_single_try_is_not_asked_about_again_and_again() -> None:
    """While the one try of a FAILED service starts, its end is what to wait for: no timer in the past, no busy loop."""
    policy = RestartSpec(intensity=1, cap=1.0)
    spec = shop(workers=2, restart=policy, start_timeout=60.0)
    host = FakeHost(spec)
    for child in list(host.children.values()):
        child.exit(3)
    host.go()
    host.go(1.0)
    assert host.states() == ["0.1 STARTING"]

    assert host.service.wake_at == pytest.approx(host.clock + 60.0)
