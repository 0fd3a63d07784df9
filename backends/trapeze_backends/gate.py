"""A gate before the listeners of an event loop that accepts by itself, so that a worker with more than its part of the
connections accepts none for a moment (`fairshare`).

Such a loop accepts until nothing is left, a whole burst in one turn, and one in C lets nobody have a word in between or
take a listener away from it. So while the gate is shut the listener's descriptor is that of another socket, on which
nobody can connect, and the loop's epoll does not look at it. The listener itself is not touched.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket

from trapeze_backends.fairshare import PAUSE

TYPE_CHECKING = False
if TYPE_CHECKING:
    import select
    from collections.abc import Sequence
    from typing import Any

    from trapeze_backends.fairshare import Share

__all__ = ["Gate"]

_IN = 1
"""EPOLLIN."""


class Gate:
    """One for all listeners of a worker.

    Args:
        share: of this worker.
        sockets: the listeners. asyncio's own loop accepts by these very objects.
        loop: the running one.
    """

    def __init__(self, share: Share, sockets: Sequence[socket.socket], loop: asyncio.AbstractEventLoop) -> None:
        self._share = share
        self._loop = loop
        self._fds = [sock.fileno() for sock in sockets]
        self._connections = 0
        self._kept: dict[int, int] = {}
        self._epolls: list[select.epoll] | None = None
        self._nobody: socket.socket | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._counts = isinstance(loop, asyncio.BaseEventLoop) and not share.is_alone
        if self._counts:
            _accept_singly(sockets, self._accepted)
        share.note(0)

    def accepted(self) -> None:
        """To be called when the protocol of a new connection is made: a loop in C has not looked for the next one yet.

        asyncio's own accepts a whole burst before that, which is why it is counted elsewhere (`_accept_singly`).
        """
        if not self._counts:
            self._accepted()

    def left(self) -> None:
        """To be called when a connection has ended."""
        self.count(max(self._connections - 1, 0))

    def count(self, connections: int) -> None:
        """There are so many: to be said now and then, for those that came or went otherwise."""
        self._connections = connections
        self._share.note(connections)
        if self._timer is not None and not self._share.has_too_many(connections):
            self._timer.cancel()
            self._open()

    def close(self) -> None:
        """No more is accepted. To be called while the loop still has the listeners."""
        if self._timer is not None:
            self._timer.cancel()
            self._open()
        self._share.leave()
        for fd in self._kept.values():
            os.close(fd)
        for epoll in self._epolls or ():
            epoll.close()
        if self._nobody is not None:
            self._nobody.close()
        self._kept, self._epolls, self._nobody = {}, [], None

    def _accepted(self) -> None:
        self._connections += 1
        if self._share.accepted(self._connections) and self._timer is None:
            self._shut()

    def _shut(self) -> None:
        if self._epolls is None:
            self._prepare()
        if self._nobody is None:
            return
        self._share.pause(self._connections)
        self._watch(0)
        for fd in self._kept:
            os.dup2(self._nobody.fileno(), fd, inheritable=False)
        self._timer = self._loop.call_later(PAUSE, self._over)

    def _prepare(self) -> None:
        """Not before a connection has been accepted: then the loop has surely told its epoll of the listeners."""
        import select

        from trapeze_backends.epolls import waiting_for

        self._epolls = []
        with contextlib.suppress(OSError):  # no descriptors left, or no /proc: then nobody is let go first
            self._epolls = [select.epoll.fromfd(os.dup(fd)) for fd in waiting_for(set(self._fds))]
            if self._epolls:
                self._kept = {fd: os.dup(fd) for fd in self._fds}
                self._nobody = _silent_listener()

    def _over(self) -> None:
        self._share.resume()
        self._open()

    def _open(self) -> None:
        self._timer = None
        for fd, kept in self._kept.items():
            os.dup2(kept, fd, inheritable=False)
        self._watch(_IN)

    def _watch(self, events: int) -> None:
        for epoll in self._epolls or ():
            for fd in self._kept:
                with contextlib.suppress(OSError):  # the loop does not wait for it: it had run out of descriptors
                    epoll.modify(fd, events)


def _accept_singly(sockets: Sequence[socket.socket], accepted: Any) -> None:
    """Have asyncio's own loop accept one connection in each turn: of these sockets, every other look finds nothing."""
    done: set[int] = set()

    class Single(socket.socket):
        """A listener."""

        __slots__ = ()

        def accept(self) -> tuple[socket.socket, Any]:
            if self.fileno() in done:
                done.clear()
                raise BlockingIOError
            found = super().accept()
            done.add(self.fileno())
            accepted()
            return found

    for sock in sockets:
        if type(sock) is socket.socket:
            sock.__class__ = Single


def _silent_listener() -> socket.socket:
    """A listening socket to which nobody can connect: its name is gone."""
    import tempfile

    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        with tempfile.TemporaryDirectory(prefix="trapeze-") as directory:
            sock.bind(os.path.join(directory, "nobody"))
        sock.listen(1)
    except BaseException:
        sock.close()
        raise
    return sock
