"""When a stop signal is held back, and when it is sent: the rule of `lastout`, without an operating system."""

from __future__ import annotations

import signal
from typing import Any

import pytest
from msgspec.structs import replace

from tests.support.fakehost import FakeChild, FakeHost
from trapeze import lastout
from trapeze.lifecycle import State
from trapeze.sockets import ListenSocket
from trapeze.spec import ServiceSpec

TERM = int(signal.SIGTERM)


class FakeSocket:
    """A listening socket on paper."""

    def __init__(
        self, identity: int = 1, *, borrowed: bool = False, has_doors: bool = True, reserved: bool = False
    ) -> None:
        self.identity = identity
        self.borrowed = borrowed
        self.reserved = reserved
        self.name = "web"
        self.slot: int | None = None
        self.own: list[FakeSocket] = []
        self.waiting = True
        self.doors_closed = False
        self.closed = False
        self.name, self.address, self.fd, self.backlog = "web", "unix:x", identity, 8
        self.spec = self
        self._has_doors = has_doors

    def take(self) -> None:
        """It has its path."""

    def close_doors(self) -> bool:
        self.doors_closed = self._has_doors
        return self._has_doors

    def open_doors(self) -> None:
        self.doors_closed = False

    def beside(self, *, listening: bool) -> FakeSocket:
        """For one worker alone."""
        assert not listening, "the worker says when"
        self.own.append(FakeSocket(100 * self.identity + len(self.own)))
        return self.own[-1]

    def close(self) -> None:
        self.closed = True


class Host(FakeHost):
    """With sockets, and other services."""

    def __init__(self, sockets: list[FakeSocket], **spec: Any) -> None:
        self.fakes = sockets
        self.beside: list[Any] = []
        super().__init__(ServiceSpec(app="x:y", preload=False, socket="web", stop_timeout=10.0, **spec))
        self.all_ready()

    def make(self, spec: ServiceSpec, number: int, sockets: list[FakeSocket] | None = None) -> Any:  # type: ignore[override]
        listening: list[Any] = self.fakes if sockets is None else sockets
        return replace(FakeHost.make(spec, number), sockets=listening)

    def others(self, service: Any) -> list[Any]:
        return self.beside

    def worker(self, index: int = 0) -> FakeChild:
        process = next(each for each in self.service.workers() if each.index == index)
        assert process.pid is not None
        return self.children[process.pid]

    def signalled(self) -> int:
        """How many workers have got their stop signal. (A service that is not preloaded has a spare as well.)"""
        workers = [process.pid for process in self.service.workers()]
        return sum(TERM in child.signals for pid, child in self.children.items() if pid in workers)

    def first_ready(self) -> None:
        """One of those that start is ready."""
        process = next(each for each in self.service.workers() if each.state is State.STARTING)
        assert process.pid is not None
        self.children[process.pid].ready()
        self.go()

    def stopping(self) -> int:
        return sum(process.state is State.STOPPING for process in self.service.workers())


@pytest.fixture
def sock() -> FakeSocket:
    return FakeSocket()


def test_signal_waits_for_the_queue(sock: FakeSocket) -> None:
    host = Host([sock], workers=2)
    host.service.disable()
    host.go()
    assert sock.doors_closed
    assert [process.state for process in host.service.workers()] == [State.STOPPING] * 2
    for _ in range(10):
        assert host.service.wake_at == pytest.approx(host.clock + 0.02)
        host.go(0.02)
        assert host.signalled() == 0
    sock.waiting = False
    host.go(0.02)
    assert host.signalled() == 2
    assert host.service.wake_at == pytest.approx(110.0), "nothing is looked at any more, but the deadline"


def test_first_look_is_a_moment_later(sock: FakeSocket) -> None:
    sock.waiting = False
    host = Host([sock])
    host.service.disable()
    host.go()
    assert host.signalled() == 0
    host.go(0.02)
    assert host.signalled() == 1


def test_queue_is_given_up_so_that_the_last_requests_can_end(sock: FakeSocket) -> None:
    host = Host([sock])
    host.service.disable()
    host.go()
    host.go(7.4)
    assert host.signalled() == 0
    host.go(0.2)
    assert host.worker().signals == [TERM]
    assert host.worker().told == ["STOP_TIMEOUT=2.400"]
    host.go(2.5)
    assert host.worker().signals == [TERM, -9], "stop_timeout counts from the beginning"


def test_impatience_cuts_it_short(sock: FakeSocket) -> None:
    host = Host([sock])
    host.service.disable()
    host.go()
    host.service.force()
    assert host.worker().signals == [-9]


@pytest.fixture
def reserved(monkeypatch: pytest.MonkeyPatch) -> FakeSocket:
    """listen = "reuseport"; the kernel does not hand on what waits."""
    monkeypatch.setattr(lastout, "migrates", lambda: False)
    return FakeSocket(reserved=True)


def test_each_is_the_last_one_out_of_its_own_socket(reserved: FakeSocket) -> None:
    host = Host([reserved], workers=2)
    job: Any = host.worker(1).launch.job
    assert [entry["fd"] for entry in job["sockets"]] == [reserved.own[1].fd]
    host.service.scale(1)
    host.go()
    (leaving,) = [process for process in host.service.workers() if process.state is State.STOPPING]
    own = reserved.own[leaving.index]
    assert (own.doors_closed, own.closed) == (True, False)
    assert host.signalled() == 0
    own.waiting = False
    host.go(0.02)
    assert host.worker(leaving.index).signals == [TERM]
    assert own.closed, "or it would go on listening when the worker has closed it"
    assert not reserved.own[1 - leaving.index].closed
    assert not reserved.doors_closed


def test_siblings_are_handed_what_waits_where_the_kernel_does_that(
    reserved: FakeSocket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lastout, "migrates", lambda: True)
    host = Host([reserved], workers=2)
    host.service.scale(1)
    host.go()
    assert host.signalled() == 1
    assert [own.doors_closed for own in reserved.own] == [False, False]
    assert sum(own.closed for own in reserved.own) == 1
    host.service.disable()
    host.go()
    assert host.signalled() == 1, "nobody would be left to whom it could hand it"
    assert sum(own.doors_closed for own in reserved.own) == 1


def test_own_socket_of_one_that_is_gone_is_closed(reserved: FakeSocket) -> None:
    host = Host([reserved])
    host.worker().exit(-9)
    host.go(1.0)
    host.all_ready()
    assert [own.closed for own in reserved.own] == [True, False]


def test_siblings_that_serve_on_take_the_queue(sock: FakeSocket) -> None:
    host = Host([sock], workers=2)
    host.service.scale(1)
    host.go()
    assert host.signalled() == 1
    assert not sock.doors_closed


def test_another_service_at_the_socket_takes_the_queue(sock: FakeSocket) -> None:
    other = Host([FakeSocket()])
    host = Host([sock])
    host.beside = [other.service]
    host.service.disable()
    host.go()
    assert host.signalled() == 1
    assert not sock.doors_closed
    other.service.disable()
    other.beside = [host.service]
    other.go()
    assert other.fakes[0].doors_closed, "now it is the last"


def test_borrowed_socket_is_just_left(sock: FakeSocket) -> None:
    sock.borrowed = True
    host = Host([sock])
    host.service.disable()
    host.go()
    assert host.signalled() == 1
    assert not sock.doors_closed


def test_socket_without_doors_is_emptied_all_the_same() -> None:
    sock = FakeSocket(has_doors=False)
    host = Host([sock])
    host.service.disable()
    host.go(0.02)
    assert host.signalled() == 0
    sock.waiting = False
    host.go(0.02)
    assert host.signalled() == 1


def test_one_that_starts_is_not_waited_for(sock: FakeSocket) -> None:
    host = Host([sock])
    host.service.restart()
    host.go()
    host.service.disable()
    host.go()
    assert (host.stopping(), host.signalled()) == (2, 1)


def test_every_socket_has_to_be_empty() -> None:
    one, two = FakeSocket(1), FakeSocket(2)
    host = Host([one, two])
    one.waiting = False
    host.service.disable()
    host.go()
    host.go(1.0)
    assert host.signalled() == 0
    two.waiting = False
    host.go(0.02)
    assert host.signalled() == 1


def test_doors_open_when_it_is_wanted_again(sock: FakeSocket) -> None:
    host = Host([sock])
    host.service.disable()
    host.go()
    old = host.worker()
    host.service.enable()
    host.go()
    assert not sock.doors_closed
    sock.waiting = False
    host.go(1.0)
    assert old.signals == [], "it serves until the new one is there"
    host.all_ready()
    host.go(0.02)
    assert old.signals == [TERM]


def test_last_of_the_old_generation_empties_an_address_that_moved() -> None:
    old, new = FakeSocket(1), FakeSocket(2)
    host = Host([old], workers=2)
    host.service.adopt(host.make(host.service.current.spec, 2, [new]))
    host.go()
    host.first_ready()
    assert (host.stopping(), host.signalled()) == (1, 1)
    assert not old.doors_closed, "its sibling serves on"
    host.leave_all()
    host.first_ready()
    assert (host.stopping(), host.signalled()) == (1, 0)
    assert [each.doors_closed for each in (old, new)] == [True, False]
    old.waiting = False
    host.go(0.02)
    assert host.signalled() == 1


def test_same_socket_under_another_descriptor_did_not_move() -> None:
    host = Host([FakeSocket(7)])
    host.service.adopt(host.make(host.service.current.spec, 2, [FakeSocket(7)]))
    host.go()
    host.all_ready()
    assert host.signalled() == 1
    assert not host.fakes[0].doors_closed


def test_fake_is_like_the_real_one() -> None:
    for name in ("borrowed", "waiting", "identity", "doors_closed", "close_doors", "open_doors"):
        assert hasattr(ListenSocket, name)
