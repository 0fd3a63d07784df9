"""A real control door in front of a supervisor that does what the test says: no processes, no waiting."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from trapeze import control
from trapeze.config import Resolved
from trapeze.errors import UnknownName
from trapeze.output import Journal, LogLine
from trapeze.runtime import Claim, claim
from trapeze.spec import Config, ControlSpec, ServiceSpec, SocketSpec
from trapeze.status import ProcessStatus, ServiceStatus, Snapshot, SocketStatus, Status, Ticket, Transition

__all__ = ["FakeDoor", "FakeSupervisor", "Outcome", "fake_door"]

T = TypeVar("T")


class Outcome(NamedTuple):
    """How far it is; the test sets it."""

    done: bool = False
    failed: bool = False
    code: str = ""
    message: str = ""
    output: Sequence[str] = ()
    services: Mapping[str, int] = {}


class FakeSupervisor:
    """Notes what is asked. Everything on the thread of the door's loop; use `FakeDoor.do`."""

    def __init__(self, names: Sequence[str] = ("web", "redis")) -> None:
        self.names = list(names)
        self.revision = 7
        self.journal = Journal()
        self.asked: list[tuple[Any, ...]] = []
        """Every verb with its arguments, without who asked."""
        self.who: list[str] = []
        self.outcome = Outcome(done=True, message="web: generation 2, 4 of 4 ready")
        self.script: Callable[[], None] | None = None
        """Called soon after a verb."""
        self.error: Exception | None = None
        """Raised by the next verb."""
        self.log: list[Transition] = []
        self.waiters: list[asyncio.Future[None]] = []
        web = ServiceSpec(app="shop:app", workers=4, env={"TOKEN": "hidden"})
        config = Config(sockets={"web": SocketSpec(bind="127.0.0.1:8000")}, services={"web": web})
        self.resolved = Resolved(config, {"services.web.workers": "flag --workers"}, "/srv/shop/trapeze.toml", "/srv")

    # ---- what the test says

    def happens(self, service: str, to: str, why: str, **more: Any) -> None:
        """Add a transition, and wake those who wait."""
        self.revision += 1
        self.log.append(Transition(revision=self.revision, at=0.0, service=service, to=to, why=why, **more))
        waiters, self.waiters = self.waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def prints(self, service: str, text: str, *, more: bool = False, index: int = 0) -> None:
        """Add a log line."""
        self.journal.append(LogLine(float(len(self.asked)), service, index, 4720 + index, "stdout", text, more))

    # ---- what the door asks

    def snapshot(self) -> Snapshot:
        """Two services, one process each."""
        return Snapshot(
            revision=self.revision,
            pid=4711,
            name="trapeze",
            version="0.1.0",
            since=0.0,
            config="/srv/shop/trapeze.toml",
            services=[self._service(number, name) for number, name in enumerate(self.names)],
            sockets=[SocketStatus(name="web", address="127.0.0.1:8000", fd=7, waiting=3, limit=2048, dropped=5)],
        )

    @staticmethod
    def _service(number: int, name: str) -> ServiceStatus:
        process = ProcessStatus(
            id=number + 1,
            index=0,
            pid=4720 + number,
            generation=2,
            state="READY",
            since=0.0,
            why="ready",
            rss=30 * 2**20,
        )
        return ServiceStatus(
            name=name,
            kind="web",
            status=Status.RUNNING,
            why="1 of 1 ready",
            since=0.0,
            want=1,
            ready=1,
            generation=2,
            restarts=0,
            processes=[process],
        )

    def transitions(self, since: int) -> list[Transition]:
        """What happened after a revision."""
        return [change for change in self.log if change.revision > since]

    async def changed(self, revision: int) -> None:
        """Wait for `happens`."""
        if self.revision > revision:
            return
        waiter = asyncio.get_running_loop().create_future()
        self.waiters.append(waiter)
        try:
            await waiter
        finally:
            if waiter in self.waiters:
                self.waiters.remove(waiter)

    def progress(self, ticket: Ticket) -> Outcome:
        """What the test has set."""
        return self.outcome

    def _order(self, names: Sequence[str] | None, who: str, *asked: Any) -> Ticket:
        error, self.error = self.error, None
        if error is not None:
            raise error
        for name in names or ():
            if name not in self.names:
                raise UnknownName(f"no service {name!r}", hint=f"services: {', '.join(self.names)}")
        self.asked.append(asked)
        self.who.append(who)
        if self.script is not None:
            asyncio.get_running_loop().call_soon(self.script)
        return Ticket(str(asked[0]), self.revision + 1, dict.fromkeys(names or self.names, 2))

    async def reload(self, names: Sequence[str] | None, who: str) -> Ticket:
        """A verb."""
        return self._order(names, who, "reload", names)

    upgrade: Callable[[str, str | None], Awaitable[Mapping[str, object]]] | None = None

    def rollback(self, name: str, who: str) -> Ticket:
        """A verb."""
        return self._order([name], who, "rollback", name)

    def restart(self, names: Sequence[str] | None, who: str, process: int | None = None) -> Ticket:
        """A verb."""
        return self._order(names, who, "restart", names, process)

    def scale(self, name: str, who: str, *, count: int | None = None, delta: int = 0) -> Ticket:
        """A verb."""
        return self._order([name], who, "scale", name, count, delta)

    def start(self, names: Sequence[str], who: str) -> Ticket:
        """A verb."""
        return self._order(names, who, "start", names)

    def stop(self, names: Sequence[str], who: str) -> Ticket:
        """A verb."""
        return self._order(names, who, "stop", names)

    def signal(self, name: str, signum: int, who: str, process: int | None = None) -> Ticket:
        """A verb."""
        return self._order([name], who, "signal", name, signum, process)

    def shutdown(self, who: str, *, fast: bool = False) -> None:
        """A verb."""
        self._order(None, who, "shutdown", fast)


class FakeDoor:
    """The door, on a loop in a thread of its own."""

    def __init__(self, claimed: Claim, loop: asyncio.AbstractEventLoop) -> None:
        self.claimed = claimed
        self.path = Path(claimed.path)
        self.supervisor = FakeSupervisor()
        self.door: control.Door
        self._loop = loop
        self._closed = False

    def do(self, action: Callable[[], T]) -> T:
        """Call something on the thread of the loop, and return what it returns."""

        async def call() -> T:
            return action()

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(10)

    def close(self) -> None:
        """Close the door, as the supervisor does when it ends. May be called twice."""
        if not self._closed:
            self._closed = True
            asyncio.run_coroutine_threadsafe(self.door.close(), self._loop).result(10)
            self.claimed.release()

    @property
    def clients(self) -> int:
        """Connections that are open."""
        return self.do(lambda: len(self.door._connections))

    @property
    def waiting(self) -> int:
        """How many wait for a change."""
        return self.do(lambda: len(self.supervisor.waiters))

    def connect(self) -> socket.socket:
        """Return a connected socket; reads take ten seconds at most."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.connect(str(self.path))  # with a timeout it would not wait for a place in the backlog
        sock.settimeout(10)
        return sock


@contextlib.contextmanager
def fake_door(directory: Path, name: str = "trapeze", spec: ControlSpec | None = None) -> Iterator[FakeDoor]:
    """Open a door in *directory*, which is TRAPEZE_RUNTIME_DIR, and close it at the end."""
    spec = spec or ControlSpec()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    claimed = claim(name, spec, environ={"TRAPEZE_RUNTIME_DIR": str(directory)})
    door = FakeDoor(claimed, loop)
    try:
        serving = control.serve(door.supervisor, claimed.sock, spec)
        door.door = asyncio.run_coroutine_threadsafe(serving, loop).result(10)
        yield door
    finally:
        if hasattr(door, "door"):
            door.close()
        claimed.release()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
