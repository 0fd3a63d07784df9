"""Workers that have served or grown enough: replaced before they leave, one at a time. No processes."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from tests.support.fakehost import FakeHost
from tests.support.watched import WEB, child, started, worker
from trapeze import report
from trapeze.lifecycle import State
from trapeze.planner import Rules
from trapeze.process import Process
from trapeze.spec import ServiceSpec
from trapeze.status import Status


def asks(host: FakeHost, process: Process, why: str = "has served 10,012 requests") -> None:
    child(host, process).listener.on_message(f"X_TRAPEZE_RECYCLE={why}".encode())


def test_recycling_is_make_before_break_and_one_at_a_time() -> None:
    """All three ask at once; there are never fewer than three ready, and never more than four."""
    host = started()
    first = [process.id for process in host.service.workers()]
    for process in host.service.workers():
        asks(host, process)
    replaced = 0
    while first:
        host.go()
        ready = [p for p in host.service.workers() if p.state is State.READY]
        live = [p for p in host.service.workers() if p.live]
        assert len(ready) == 3
        assert len(live) <= 4
        assert sum(bool(p.recycle) for p in live) <= 1
        host.all_ready()
        host.leave_all()
        gone = [id for id in first if id not in host.service.processes]
        assert len(gone) <= 1
        first = [id for id in first if id not in gone]
        replaced += len(gone)
        assert replaced < 4
    assert replaced == 3
    assert host.service.ledger.restarts == 0


def test_one_at_a_time_also_with_a_larger_surge() -> None:
    host = started(replace(WEB, max_surge=3))
    assert host.service.rules == Rules(3, 0, exclusive=False)
    for index in (2, 1, 0):
        asks(host, worker(host, index))
        host.go()
    assert sum(state.endswith("STARTING") for state in host.states()) == 1


def test_recycling_is_no_trouble() -> None:
    """The service runs all the while, is settled, and says why the worker left."""
    host = started()
    old = worker(host, 2)
    asks(host, old)
    host.go()
    assert report.judge(host.service) == (Status.RUNNING, "3 of 3 ready")
    assert host.service.is_settled()
    assert old.why == "to be replaced: has served 10,012 requests"
    host.all_ready()
    assert old.why == "recycled: has served 10,012 requests"
    host.leave_all()
    assert old.why == "exited with status 0 (recycled: has served 10,012 requests)"


def test_a_reload_takes_over_from_recycling() -> None:
    host = started()
    asks(host, worker(host, 0))
    host.go()
    host.service.adopt(host.make(WEB, 2))
    host.go()
    assert not host.service.is_settled()
    for _ in range(10):
        host.all_ready()
        host.leave_all()
    assert host.states() == ["0.2 READY", "1.2 READY", "2.2 READY"]


def test_old_ones_are_not_recycled_during_a_reload() -> None:
    """They leave anyway, as soon as the new code serves; as long as it only starts they are, by their own kind."""
    host = started()
    host.service.adopt(host.make(WEB, 2))
    host.go()
    old = worker(host, 0)
    host.newest().ready()
    asks(host, old)
    host.service.vigil.look(host.clock)
    assert not any(process.recycle for process in host.service.workers())


def test_old_ones_are_recycled_while_the_new_code_only_starts() -> None:
    host = started()
    host.service.adopt(host.make(WEB, 2))
    host.go()
    asks(host, worker(host, 0))
    host.go()
    assert [process.index for process in host.service.workers() if process.recycle] == [0]
    assert host.service.workers()[0].generation == 1


def test_those_that_do_not_stand_in_are_not_recycled() -> None:
    """Only the last good generation may have to serve for long."""
    host = started()
    host.service.adopt(host.make(WEB, 2))
    host.go()
    old = worker(host, 0)
    host.service.trial.unbroken = False
    asks(host, old)
    host.service.vigil.look(host.clock)
    assert not any(process.recycle for process in host.service.workers())


def test_age() -> None:
    """Each worker has its own, and the supervisor is woken for it."""
    host = started(replace(WEB, max_age=100.0, recycle_jitter=0.1, heartbeat_timeout=0.0))
    assert host.service.wake_at == pytest.approx(195.0)  # drawn 0.5: 95 s
    host.go(94.9)
    assert not any(process.recycle for process in host.service.workers())
    host.go(0.1)
    assert [process.recycle for process in host.service.workers()][:3] == ["is 95 s old", "", ""]


@pytest.mark.parametrize(
    ("spec", "draw", "field", "expected"),
    [
        (ServiceSpec(max_requests=1000), 0.0, "max_requests", 1000),
        (ServiceSpec(max_requests=1000), 0.999, "max_requests", 1100),
        (ServiceSpec(max_requests=1000, max_requests_jitter=0), 0.999, "max_requests", 1000),
        (ServiceSpec(max_requests=1000, max_requests_jitter=500), 0.5, "max_requests", 1250),
        (ServiceSpec(max_requests=5), 0.999, "max_requests", 5),
        (ServiceSpec(max_rss=1000), 0.0, "max_rss", 1000),
        (ServiceSpec(max_rss=1000, recycle_jitter=0.2), 0.5, "max_rss", 900),
        (ServiceSpec(), 0.5, "max_requests", None),
        (ServiceSpec(), 0.5, "max_rss", None),
    ],
)
def test_jitter_of_limits(spec: ServiceSpec, draw: float, field: str, expected: int | None) -> None:
    """Requests come on top, memory and age are never exceeded."""
    host = FakeHost(replace(spec, app="shop:app", socket="web", workers=0, preload=False, spare=False))
    host.draw = draw
    host.service.scale(1)
    host.go()
    job = host.newest().launch.job
    assert job is not None
    assert job.get(field) == expected
