"""Starts that run into start_timeout, and how they count. No operating system."""

from __future__ import annotations

from functools import partial

from tests.support.fakehost import FakeChild, FakeHost
from trapeze.lifecycle import State
from trapeze.spec import RestartSpec, ServiceSpec

shop = partial(ServiceSpec, app="shop:app", socket="web", preload=False, spare=False)


def leaving(host: FakeHost) -> FakeChild:
    """The one whose time was over."""
    return next(host.children[p.pid or 0] for p in host.service.workers() if p.state is State.KILLING)


def test_a_reload_that_hangs_has_failed() -> None:
    """Nobody waits for start_timeout five times; nor does it matter how that compares with restart.period."""
    spec = shop(workers=2, start_timeout=100.0)
    host = FakeHost(spec)
    host.all_ready()
    host.service.adopt(host.make(spec, 2))
    host.go()
    host.go(100.0)
    assert "0.2 KILLING" in host.states()
    leaving(host).exit(-15)
    host.go()

    assert host.service.want.generation == 1
    assert [number for number, _ in host.rollbacks] == [2]


def test_starts_that_hang_add_up() -> None:
    """Each takes longer than the period, and each counts: its successor is a try of its own."""
    host = FakeHost(shop(start_timeout=100.0, restart=RestartSpec(intensity=3, period=60.0, backoff=0.0)))
    for tries in range(1, 4):
        assert not host.service.ledger.history.exhausted, tries
        host.go(100.0)
        leaving(host).exit(-15)
        host.go()
    assert host.service.ledger.history.exhausted
