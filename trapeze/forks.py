"""Processes that a zygote forks for us: the request, the answer, and the gate between.

A zygote has imported an app once. It forks twice, so that the process it makes is our child, not its own: we are the
subreaper of all our descendants. It tells us the pid when the process between the two is gone; only then do we open the
gate, by one byte on the `go` pipe, and the new process begins. If it is not wanted any more, the pipe is closed instead
and it leaves without having done anything. Order and reasons: docs/decisions/0012.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import os
import socket
from collections import deque
from collections.abc import Callable

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from trapeze.following import Followed, Kept
from trapeze.prelude import ForkListener, Launch, job_of

__all__ = ["Fork", "Forking", "Line"]

_AT_ONCE = 8
"""So many requests are on their way to a zygote; the others wait for the answers."""
_PATIENCE = 10.0
"""Seconds for one fork, which takes milliseconds: a zygote that does not answer is stopped or stuck, and has to go."""


_Born = Callable[[int], None]
_Failed = Callable[[str], None]


class _Answer(Struct):
    id: int
    pid: int = 0
    error: str = ""


class Line:
    """The socket to one zygote, or to one process that stands by."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, give_up: Callable[[], None], *, last: int = 0
    ) -> None:
        """`last` is the number of the last request that was sent on it."""
        self._loop = loop
        self.sock = sock
        self._give_up = give_up
        self.last = last
        self._waiting: dict[int, tuple[_Born, _Failed]] = {}
        self._queue: deque[tuple[Callable[[], _Request], _Born, _Failed]] = deque()
        """More than _AT_ONCE would not fit into the socket, and each holds descriptors."""
        self._timer: asyncio.TimerHandle | None = None
        self.when_paid: Callable[[], None] = lambda: None
        """Called when nothing is owed any more."""
        sock.setblocking(False)
        loop.add_reader(sock.fileno(), self._read)

    @property
    def owes(self) -> bool:
        """Has it not answered yet?"""
        return bool(self._waiting or self._queue)

    def fork(self, request: Callable[[], _Request], born: _Born, failed: _Failed) -> None:
        """Send a request, now or when those before it are answered; `born` gets the pid, or `failed` the reason.

        Args:
            request: makes it, when it is its turn; OSError if that is not possible.
            born: called with the pid.
            failed: called with the reason; never from in here.

        Raises:
            OSError: it was its turn, and it could not be made or sent.
        """
        if len(self._waiting) < _AT_ONCE and not self._queue:
            self._send(request, born, failed)
        else:
            self._queue.append((request, born, failed))

    def _send(self, request: Callable[[], _Request], born: _Born, failed: _Failed) -> None:
        made = request()
        try:
            packet = msgspec.json.encode({**made.words, "id": self.last + 1})
            passed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", made.fds))] if made.fds else []
            self.sock.sendmsg([packet], passed)
        finally:
            made.release()
        self.last += 1
        self._waiting[self.last] = (born, failed)
        if self._timer is None:
            self._arm()

    def _arm(self) -> None:
        """The time of one answer begins: those who wait behind it have all the time in the world."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(_PATIENCE, self._give_up) if self._waiting else None

    def employ(self, launch: Launch, failed: Callable[[str], None]) -> None:
        """Tell one that stands by what to do. Raises OSError as `fork`."""
        self.fork(lambda: _Request.of(launch), lambda pid: None, failed)

    def _read(self) -> None:
        try:
            packet = self.sock.recv(64 * 1024)
        except BlockingIOError:
            return
        except OSError:
            packet = b""
        if not packet:
            self.close()
            return
        answer = msgspec.json.decode(packet, type=_Answer)
        waiting = self._waiting.pop(answer.id, None)
        self._arm()
        if waiting is not None:
            born, failed = waiting
            if answer.pid:
                born(answer.pid)
            else:
                failed(answer.error or "the zygote could not fork")
        while self._queue and len(self._waiting) < _AT_ONCE:
            request, born, failed = self._queue.popleft()
            try:
                self._send(request, born, failed)
            except OSError as error:
                failed(error.strerror or str(error))
        self._paid()

    def _paid(self) -> None:
        if not self.owes:
            paid, self.when_paid = self.when_paid, lambda: None
            paid()

    def close(self) -> None:
        """Nobody answers any more: what is owed has failed. Safe to call twice."""
        if self.sock.fileno() >= 0:
            self._loop.remove_reader(self.sock.fileno())
            self.sock.close()
        owed = [*(failed for _, failed in self._waiting.values()), *(failed for _, _, failed in self._queue)]
        self._waiting = {}
        self._queue.clear()
        self._arm()
        for failed in owed:
            failed("the zygote ended")
        self._paid()


class _Request:
    """A `Launch` as the zygote gets it: descriptors travel beside the words, which name them by their place."""

    def __init__(self) -> None:
        self.fds: list[int] = []
        self.lent: list[int] = []
        """Those that are closed here once they were sent."""
        self.words: dict[str, object] = {"stdio": None, "go": None}

    def release(self) -> None:
        """It was sent, or never will be."""
        for fd in self.lent:
            os.close(fd)
        self.lent = []

    def _pass(self, fd: int) -> int:
        if fd not in self.fds:
            self.fds.append(fd)
        return self.fds.index(fd)

    @classmethod
    def of(
        cls, launch: Launch, *, stdio: tuple[int, int] | None = None, go: int = -1, notify: int = -1, line: int = -1
    ) -> _Request:
        """Make the request; without the optional descriptors for one that stands by and has them already."""
        request = cls()
        notify_at, line_at = (request._pass(fd) if fd >= 0 else None for fd in (notify, line))
        job = job_of(launch, notify_at, line_at)
        sockets = job["sockets"]
        assert isinstance(sockets, list)
        job["sockets"] = [{**entry, "fd": request._pass(entry["fd"])} for entry in sockets]
        board = job.get("board")
        if isinstance(board, dict):
            job["board"] = {**board, "fd": request._pass(board["fd"])}
        job["env"] = {"TRAPEZE_INDEX": launch.env.get("TRAPEZE_INDEX", "0")}
        request.words["job"] = job
        if stdio is not None:
            request.words["stdio"] = [request._pass(fd) for fd in stdio]
        if go >= 0:
            request.words["go"] = request._pass(go)
        return request


class Forking(Followed):
    """A process that may fork others for us."""

    line: Line | None = None
    """On which it is asked to; also to one that stands by."""

    def _open_line(self) -> int:
        """Make the line; return the other end of it."""
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.line = Line(self._loop, here, self._give_up)
        return there.detach()

    def keep(self) -> Kept:
        """As `Followed.keep`, with the line."""
        kept = super().keep()
        if self.line is None or self.line.sock.fileno() < 0:
            return kept
        return replace(kept, line=self.line.sock.fileno(), asked=self.line.last)

    def _give_up(self) -> None:
        """It takes no requests: nobody would know from its end that it was us."""
        self._complain("it does not answer when it is asked for a worker, and is killed")
        self.kill()

    def _close_line(self) -> None:
        if self.line is not None:
            self.line.close()
            self.line = None

    def _reaped(self, status: int) -> None:
        self._close_line()


class Fork(Forking):
    """A process that a zygote makes. Until its pid is known a signal means: do not begin."""

    _unwanted = False
    _unborn = True

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        launch: Launch,
        listener: ForkListener,
        forget: Callable[[Followed], None],
        announce: Callable[[Followed], None],
    ) -> None:
        super().__init__(loop, launch, listener, forget)
        self._parent = listener
        self._announce = announce
        self._go = -1
        self._outputs: list[int] = []

    def start(self, line: Line) -> None:
        """Ask for it; see `Launcher.fork`."""
        try:
            line.fork(self._request, self._born, self._failed)
        except BaseException:
            self._discard()
            raise

    def _request(self) -> _Request:
        """Open what it needs; only now, since hundreds may wait for their turn."""
        if self._unwanted:
            raise ProcessLookupError(0, "not wanted any more")
        theirs: list[int] = []
        try:
            for _ in range(2):
                read, write = os.pipe2(os.O_CLOEXEC)
                self._outputs.append(read)
                theirs.append(write)
                os.set_blocking(read, False)
            gate, self._go = os.pipe2(os.O_CLOEXEC)
            theirs.append(gate)
            self._notify, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            theirs.append(there.detach())
            line = -1
            if self._launch.forks:
                theirs.append(line := self._open_line())
            request = _Request.of(self._launch, stdio=(theirs[0], theirs[1]), go=gate, notify=theirs[3], line=line)
        except BaseException:
            for fd in theirs:
                os.close(fd)
            raise
        request.lent = theirs
        return request

    def _born(self, pid: int) -> None:
        self._unborn = False
        self.pid = pid
        try:
            # Dead or alive, it is our child and nobody has reaped it: the number is its own.
            pidfd = os.pidfd_open(pid)
        except OSError as error:
            self._failed(f"cannot follow pid {pid}: {error.strerror}")
            return
        outputs, self._outputs = self._outputs, []
        self._announce(self)
        self._follow(pidfd, outputs)
        if not self._unwanted:
            with contextlib.suppress(BrokenPipeError):
                os.write(self._go, b"G")
            self._parent.on_pid(pid)
        os.close(self._go)
        self._go = -1

    def _failed(self, reason: str) -> None:
        self._unborn = False
        self._discard()
        self._parent.on_failed(reason)

    def _discard(self) -> None:
        for fd in (*self._outputs, self._go):
            if fd >= 0:
                os.close(fd)
        self._outputs, self._go = [], -1
        if self._notify is not None:
            self._notify.close()
            self._notify = None
        self._close_line()

    def send(self, signum: int) -> None:
        """As `Followed.send`; before it has begun, any signal but a look means that it never shall."""
        if self._unborn:
            self._unwanted = self._unwanted or signum != 0
        else:
            super().send(signum)

    def kill(self) -> None:
        """As `Followed.kill`."""
        self._unwanted = self._unwanted or self._unborn
        super().kill()
