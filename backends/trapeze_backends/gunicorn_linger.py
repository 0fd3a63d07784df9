"""gthread closes connections without waiting for the client on its main thread.

A connection that the server ends is half closed first, and its other half read to the end, lest the last bytes of the
answer be thrown away (RFC 9112, section 9.6). gunicorn 26 and newer do that where they dispatch requests, for up to
two seconds: one client that does not close at once holds up all the others. Here the loop itself watches such sockets.
"""

from __future__ import annotations

import select
import selectors
import socket
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["linger_in_the_loop"]

PATIENCE = 2.0
"""Seconds, as in gunicorn."""
MOST = 65536
"""Bytes that are read and thrown away, as in gunicorn."""


class _Lingering:
    """Sockets that are half closed, by descriptor: until when, and how much they may still say."""

    def __init__(self) -> None:
        self.poller: Any = None
        self._waiting: dict[int, list[Any]] = {}

    def close(self, sock: Any) -> None:
        """Half close, and close for good when the client has."""
        try:
            sock.shutdown(socket.SHUT_WR)
            sock.setblocking(False)
        except OSError:
            sock.close()
            return
        self._waiting[sock.fileno()] = [sock, time.monotonic() + PATIENCE, MOST]
        self._read(sock.fileno())
        if sock.fileno() in self._waiting:
            self.poller.register(sock, selectors.EVENT_READ, lambda sock: self._read(sock.fileno(), True))

    def _read(self, fd: int, registered: bool = False) -> None:
        entry = self._waiting[fd]
        try:
            while entry[2] > 0:
                data = entry[0].recv(4096)
                if not data:
                    break
                entry[2] -= len(data)
        except BlockingIOError:
            return
        except OSError:
            pass
        self._end(fd, registered)

    def _end(self, fd: int, registered: bool) -> None:
        sock = self._waiting.pop(fd)[0]
        if registered:
            self.poller.unregister(sock)
        sock.close()

    def expire(self) -> None:
        """Close those that have waited long enough."""
        if self._waiting:
            now = time.monotonic()
            for fd in [fd for fd, entry in self._waiting.items() if entry[1] <= now]:
                self._end(fd, True)

    def finish(self) -> None:
        """The loop has ended: wait for the last ones here."""
        poll = select.poll()
        for fd in self._waiting:
            poll.register(fd, select.POLLIN)
        while self._waiting:
            left = max(entry[1] for entry in self._waiting.values()) - time.monotonic()
            if left <= 0:
                return
            for fd, _ in poll.poll(left * 1000):
                self._read(fd)
                if fd not in self._waiting:
                    poll.unregister(fd)


def linger_in_the_loop(base: type[Any], connection_class: Any) -> type[Any]:
    """Return a subclass of gunicorn's ThreadWorker, whose connections linger in its poller.

    Args:
        base: the worker class.
        connection_class: gunicorn's TConn, whose `close(graceful)` is replaced.
    """
    lingering = _Lingering()
    plain = connection_class.close

    def close(conn: Any, graceful: bool = False) -> None:
        if not graceful:
            plain(conn)
        elif hasattr(conn.sock, "unwrap"):
            plain(conn, graceful)  # TLS says goodbye in its own way
        else:
            lingering.close(conn.sock)

    connection_class.close = close

    class Lingering(base):
        """Looks after them."""

        def run(self) -> None:
            lingering.poller = self.poller
            super().run()
            lingering.finish()

        def murder_pending(self) -> None:
            super().murder_pending()
            lingering.expire()

    return Lingering
