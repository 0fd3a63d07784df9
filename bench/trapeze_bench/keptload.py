"""A steady load on connections that are kept, and which worker serves how much of it.

All connections are opened at once, as a load generator or a proxy that was just started does. From then on each asks in
its turn, at a fixed rate. What answers says who it is: the last word of the body is its pid.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from trapeze_bench import wire
from trapeze_bench.targets import Failed

__all__ = ["Tally", "busiest", "load"]

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
PATIENCE = 5.0
"""Seconds for the last answers."""


@dataclass
class Tally:
    """Who served what, by pid."""

    connections: Counter[int] = field(default_factory=Counter)
    """By whose answer came first on each."""
    requests: Counter[int] = field(default_factory=Counter)
    skipped: int = 0
    """Turns of a connection whose last request was not answered yet."""


def busiest(shares: Sequence[int], workers: int) -> float:
    """What the busiest of them has, by what each would have if all had the same; 0 if there is nothing.

    Args:
        shares: of those that have any.
        workers: how many there are.
    """
    total = sum(shares)
    return max(shares) * workers / total if total else 0.0


class _Connection:
    """One of them; opened anew where the server closes it."""

    def __init__(self, port: int, selector: selectors.BaseSelector, tally: Tally) -> None:
        self._port = port
        self._selector = selector
        self._tally = tally
        self._sock: socket.socket | None = None
        self._data = b""
        self._answered = 0
        self.waits = False
        """For an answer."""

    def ask(self) -> None:
        """Send a request, unless the last one is not answered yet."""
        if self.waits:
            self._tally.skipped += 1
            return
        sock = self._sock or self.open()
        self.waits, self._data = True, b""
        try:
            sock.sendall(REQUEST)
        except (BrokenPipeError, ConnectionResetError):  # it was closed while it was idle
            self.close()
            self.open().sendall(REQUEST)

    def open(self) -> socket.socket:
        """Connect. On loopback that does not wait for the server to accept."""
        sock = socket.create_connection(("127.0.0.1", self._port), timeout=PATIENCE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._selector.register(sock, selectors.EVENT_READ, self)
        self._sock, self._answered = sock, 0
        return sock

    def read(self) -> None:
        """Read what has come."""
        assert self._sock is not None, "it is open"
        try:
            piece = self._sock.recv(65536)
        except ConnectionResetError:
            piece = b""
        self._data += piece
        head = wire.head(self._data)
        if head is not None and head.whole is not None and len(self._data) >= head.whole:
            self._count(int(self._data.split()[-1]))
            if head.closes:
                self.close()
        elif not piece:
            if self._data or (self.waits and not self._answered):
                raise Failed("a connection ended before its answer")
            again = self.waits  # asked while the server closed it: not its fault, and not ours
            self.close()
            if again:
                self.waits = False
                self.ask()

    def _count(self, pid: int) -> None:
        self._tally.requests[pid] += 1
        if not self._answered:
            self._tally.connections[pid] += 1
        self._answered += 1
        self.waits, self._data = False, b""

    def close(self) -> None:
        """Close it; the next request opens another."""
        if self._sock is not None:
            self._selector.unregister(self._sock)
            self._sock.close()
            self._sock = None


def load(port: int, connections: int, rate: float, seconds: float) -> Tally:
    """Drive it.

    Args:
        port: of 127.0.0.1.
        connections: that are kept.
        rate: requests per second, on all of them together.
        seconds: for how long.

    Raises:
        Failed: an answer did not come, or not all of it.
    """
    tally = Tally()
    with selectors.DefaultSelector() as selector:
        all_of_them = [_Connection(port, selector, tally) for _ in range(connections)]
        try:
            for each in all_of_them:
                each.open()
            for each in all_of_them:
                each.ask()
            began, turn = time.monotonic(), 0
            while (passed := time.monotonic() - began) < seconds:
                due = int(passed * rate)
                while turn < due:
                    all_of_them[turn % connections].ask()
                    turn += 1
                _turn(selector, max((turn + 1) / rate - passed, 0.0))
            end = time.monotonic() + PATIENCE
            while any(each.waits for each in all_of_them):
                if time.monotonic() > end:
                    raise Failed(f"no answer in {PATIENCE:g} s")
                _turn(selector, 0.05)
        finally:
            for each in all_of_them:
                each.close()
    return tally


def _turn(selector: selectors.BaseSelector, seconds: float) -> None:
    for key, _ in selector.select(seconds):
        key.data.read()
