"""A loop that accepts for servers which serve each request in a thread: it watches the sockets and the connections that
are silent, and hands a connection over when its next request has begun.

A silent connection so costs no thread, whether it is new or kept, and is closed without a request being lost: what has
arrived is looked for before, and what the client may still have to send is waited for after (RFC 9112, section 9.6).
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import threading
import time

from trapeze_backends.accepting import Beats, Room
from trapeze_backends.endless import unread_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from trapeze_backends.worker import Worker

__all__ = ["Acceptor"]

LINGER = 2.0
"""Seconds that a connection we have closed may still say something, which is thrown away."""

MOST = 16
"""Pieces that are read of what it says before others get their turn."""

PAUSE = 0.1
"""Seconds between two attempts to accept while there are no descriptors left."""

EXHAUSTED = frozenset([errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])


class Acceptor:
    """The loop of the main thread.

    Args:
        worker: whose stop ends it.
        room: tells whether there is a thread for another request; `self.wake` is what it is to call.
        serve: called with a connection whose next request has begun. What is served is in the room from then on. It
            hands the connection to a thread; `keep` brings it back.
        patience: seconds after which connections are closed on which nothing was ever said.
        idle: seconds after which those are closed that are silent after a request.

    A connection is any object with `fileno()` and `close()`.
    """

    def __init__(
        self, worker: Worker, room: Room, serve: Callable[[Any], object], patience: float, idle: float
    ) -> None:
        self.worker = worker
        self.room = room
        self._serve = serve
        self._patience = patience
        self._idle = idle
        self._doors: dict[int, tuple[socket.socket, Callable[[socket.socket, Any], Any]]] = {}
        self._are_open = False
        self._poll = select.epoll()
        # All doors are one descriptor to the loop, which can be taken out whatever has become of theirs (`orphan`).
        self._lobby = select.epoll()
        # Connections by descriptor, and when they are to be closed: the oldest first. All threads put in.
        self._new: dict[int, tuple[Any, float]] = {}
        self._silent: dict[int, tuple[Any, float]] = {}
        self._lingering: dict[int, tuple[socket.socket, float]] = {}
        self._lock = threading.Lock()
        self._again_at = 0.0
        self._signals = -1
        self._wake_read, self._wake_write = os.pipe()
        for fd in (self._wake_read, self._wake_write):
            os.set_blocking(fd, False)

    def add(self, sock: socket.socket, connect: Callable[[socket.socket, Any], Any]) -> None:
        """Accept on a socket; `connect` makes a connection of an accepted one and the address of its peer."""
        self._doors[sock.fileno()] = sock, connect
        self._lobby.register(sock.fileno(), select.EPOLLIN)

    @property
    def silent(self) -> int:
        """How many connections are kept, waiting for a request."""
        return len(self._silent)

    def wake(self) -> None:
        """Have the loop go round. On any thread."""
        with contextlib.suppress(BlockingIOError):  # it is awake
            os.write(self._wake_write, b"w")

    def keep(self, connection: Any) -> None:
        """Wait for the connection's next request. On any thread."""
        self._wait(connection, self._silent, self._idle)

    def _wait(self, connection: Any, entries: dict[int, tuple[Any, float]], seconds: float) -> None:
        fd = connection.fileno()
        with self._lock:
            entries[fd] = connection, time.monotonic() + seconds
            self._poll.register(fd, select.EPOLLIN | select.EPOLLRDHUP)

    def linger(self, sock: socket.socket) -> None:
        """Close a socket whose client may not have heard yet that it closes. On any thread."""
        try:
            sock.shutdown(socket.SHUT_WR)
            sock.setblocking(False)
        except OSError:
            sock.close()
            return
        fd = sock.fileno()
        with self._lock:
            self._lingering[fd] = sock, time.monotonic() + LINGER
            self._poll.register(fd, select.EPOLLIN)

    # -- the loop ---------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Accept and hand over until the worker is asked to stop, then drain."""
        worker = self.worker
        self._signals = worker.wake_fd()
        for fd in (self._signals, self._wake_read):
            self._poll.register(fd, select.EPOLLIN)
        worker.ready()
        beats = Beats(worker, self.room)
        while not worker.stopping:
            most = beats.beat()
            self._open_doors()
            self._turn(self._until_next(most))
        self._close_doors()
        for sock, _ in self._doors.values():
            sock.close()
        self._drain()

    def _drain(self) -> None:
        worker = self.worker
        end = time.monotonic() + worker.job.patience
        while (self._new or self._silent or self._lingering or self.room.busy) and (now := time.monotonic()) < end:
            worker.beat(in_flight=self.room.busy)
            self._turn(min(0.05, end - now))
            if time.monotonic() >= worker.grace_ends:
                self._close_silent(float("inf"))

    def _until_next(self, most: float) -> float:
        """Seconds that may be slept: until the first connection has to be closed, or one may have to be by then."""
        if self.room.busy:
            most = min(most, self._idle)  # a thread may put one in while we sleep
        deadlines = [self._again_at] if self._again_at else []
        with self._lock:
            for entries in (self._new, self._silent, self._lingering):
                for _, deadline in entries.values():
                    deadlines.append(deadline)
                    break
        return max(0.0, min([most, *(deadline - time.monotonic() for deadline in deadlines)]))

    def _turn(self, seconds: float) -> None:
        for fd, event in self._poll.poll(seconds):
            if fd == self._lobby.fileno():
                for door, _ in self._lobby.poll(0):
                    self._accept(door)
            elif fd in self._silent:
                self._hand_over(self._silent, fd, event)
            elif fd in self._new:
                self._hand_over(self._new, fd, event)
            elif fd in self._lingering:
                self._read_on(fd)
            elif fd in (self._signals, self._wake_read):
                _empty(fd)
        self._close_silent(time.monotonic())

    def _open_doors(self) -> None:
        if self._again_at and time.monotonic() >= self._again_at:
            self._again_at = 0.0
        wanted = not self._again_at and self.room.has_place()
        if wanted and not self._are_open:
            self._poll.register(self._lobby.fileno(), select.EPOLLIN)
            self._are_open = True
        elif not wanted:
            self._close_doors()

    def _close_doors(self) -> None:
        if self._are_open:
            self._poll.unregister(self._lobby.fileno())
            self._are_open = False

    def _accept(self, fd: int) -> None:
        if self.worker.stopping or not self.room.has_place():
            return  # another door has let in the last one
        door, connect = self._doors[fd]
        try:
            client, address = door.accept()
        except OSError as error:  # another worker was faster, or the client is gone
            if error.errno in EXHAUSTED:
                self._again_at = time.monotonic() + PAUSE
            return
        self.room.accepted()
        connection = connect(client, address)
        if unread_bytes(client.fileno()):
            # At once, or another connection is accepted before this one counts.
            self._begin(connection)
        else:
            self._wait(connection, self._new, self._patience)

    def _hand_over(self, entries: dict[int, tuple[Any, float]], fd: int, event: int) -> None:
        connection = self._take(entries, fd)
        if event == select.EPOLLIN or unread_bytes(fd):
            self._begin(connection)
        else:  # it has ended
            connection.close()

    def _begin(self, connection: Any) -> None:
        self.room.enter()
        self._serve(connection)

    def _take(self, entries: dict[int, tuple[Any, float]], fd: int) -> Any:
        with self._lock:
            self._poll.unregister(fd)
            return entries.pop(fd)[0]

    def _close_silent(self, now: float) -> None:
        """Close those whose time is over, but none whose request has come."""
        for entries in (self._new, self._silent):
            for fd in self._overdue(entries, now):
                if not unread_bytes(fd):  # or its event comes
                    self._take(entries, fd).close()
        for fd in self._overdue(self._lingering, min(now, time.monotonic())):
            self._take(self._lingering, fd).close()

    def _overdue(self, entries: dict[int, tuple[Any, float]], now: float) -> list[int]:
        if not entries:
            return []
        found = []
        with self._lock:
            for fd, (_, deadline) in entries.items():
                if deadline > now:
                    break
                found.append(fd)
        return found

    def _read_on(self, fd: int) -> None:
        sock, _ = self._lingering[fd]
        try:
            for _ in range(MOST):
                if not sock.recv(65536):
                    break
            else:
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._take(self._lingering, fd).close()


def _empty(fd: int) -> None:
    """Signals and wakings say no more than that they came."""
    with contextlib.suppress(BlockingIOError):
        os.read(fd, 4096)
