"""A service on paper whose workers write into their slots of the scoreboard."""

from __future__ import annotations

from msgspec.structs import replace

from tests.support.fakehost import FakeChild, FakeHost
from trapeze.process import Process
from trapeze.spec import ServiceSpec

__all__ = ["WEB", "beat", "child", "started", "worker"]

WEB = ServiceSpec(app="shop:app", socket="web", workers=3, preload=False, spare=False, heartbeat_timeout=30.0)


def started(spec: ServiceSpec = WEB) -> FakeHost:
    host = FakeHost(spec)
    host.all_ready()
    for process in host.service.workers():
        beat(host, process)
    return host


def beat(host: FakeHost, process: Process, **fields: float) -> None:
    """The worker writes into its slot."""
    assert process.slot is not None
    slots = host.boards[-1].slots
    slots[process.slot] = replace(slots[process.slot], **{"beat": host.clock, **fields})


def worker(host: FakeHost, index: int) -> Process:
    return next(p for p in host.service.workers() if p.index == index and p.live)


def child(host: FakeHost, process: Process) -> FakeChild:
    assert process.pid is not None
    return host.children[process.pid]
