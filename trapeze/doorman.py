"""Who stands at the control door while the supervisor becomes another program (`upgrade`).

A new program takes a while until it can answer: a quarter of a second of processor time, and longer where the workers
need the processors. For that long a child stands in that was forked a moment before. Whoever asks for the status is
told how things stood then: nobody has changed them since, for there is no supervisor. Everybody else waits, and is told
to ask again when the new program is there.

It hears of that by the end of a pipe, whose other end the new program closes when its own door is open. When that
program ends, the same happens, and nothing is left behind.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from collections.abc import Callable, Iterable

from trapeze.runtime import peer

__all__ = ["AT_MOST", "Doorman", "post"]

AT_MOST = 10.0
"""Seconds. A program that takes longer is in trouble: its clients then wait for it in the queue of the socket."""
CLIENTS = 64
"""That wait at one time: others wait in the queue of the socket."""
HEAD = 16384
"""Bytes that a request may have."""
PATIENCE = 1.0
"""Seconds for a client to take its answer."""


def post(listener: socket.socket, status: bytes, again: bytes, admits: Callable[[int], bool]) -> int:
    """Fork it; return the descriptor by whose closing it is dismissed. Signals have to be blocked: it obeys none.

    Args:
        listener: the control socket, on which nobody else accepts.
        status: the whole answer to who asks for the status.
        again: that to everybody else, when it is dismissed.
        admits: tells by the uid of a client whether it may ask anything.

    Raises:
        OSError: it cannot be forked.
    """
    hears, dismisses = os.pipe()
    try:
        pid = os.fork()
    except OSError:
        os.close(hears)
        os.close(dismisses)
        raise
    if pid:
        os.close(hears)
        return dismisses
    try:
        _close_all_but(hears, listener.fileno())
        Doorman(listener, hears, status, again, admits).run()
    finally:
        os._exit(0)


def _close_all_but(*kept: int) -> None:
    """Whatever else is open here stands for something to somebody: that the supervisor is alive, or an output open."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in kept:
            with contextlib.suppress(OSError):
                os.close(int(name))


class Doorman:
    """Stands there until its pipe ends."""

    def __init__(
        self, listener: socket.socket, hears: int, status: bytes, again: bytes, admits: Callable[[int], bool]
    ) -> None:
        self._listener = listener
        self._hears = hears
        self._status = status
        self._again = again
        self._admits = admits
        self._poll = select.poll()
        self._asking: dict[int, tuple[socket.socket, bytes]] = {}
        """Those who have not said everything."""
        self._waiting: list[socket.socket] = []
        """Those who have, and wait for the new program."""

    def run(self) -> None:
        """Until it is dismissed, or nobody has done that for too long."""
        self._listener.setblocking(False)
        for fd in (self._hears, self._listener.fileno()):
            self._poll.register(fd, select.POLLIN)
        end = time.monotonic() + AT_MOST
        while (left := end - time.monotonic()) > 0:
            ready = {fd for fd, _ in self._poll.poll(1000 * left)}
            if self._hears in ready:
                break
            for fd in ready:
                if fd == self._listener.fileno():
                    self._accept()
                else:
                    self._read(fd)
        self._dismiss([*self._waiting, *(client for client, _ in self._asking.values())])

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError:  # it has gone, or the new program was faster
            return
        if not self._admits(peer(client)[1]):
            client.close()
            return
        client.settimeout(PATIENCE)
        self._asking[client.fileno()] = client, b""
        self._poll.register(client, select.POLLIN)
        if len(self._asking) + len(self._waiting) >= CLIENTS:
            self._poll.unregister(self._listener)

    def _read(self, fd: int) -> None:
        client, said = self._asking.pop(fd)
        try:
            piece = client.recv(HEAD)
        except OSError:
            piece = b""
        said += piece
        if piece and len(said) < HEAD and b"\r\n\r\n" not in said:
            self._asking[fd] = client, said
            return
        self._poll.unregister(fd)
        if not piece:
            client.close()
        elif said.split(b" ", 2)[:2] == [b"GET", b"/status"]:
            _answer(client, self._status)
        else:
            self._waiting.append(client)

    def _dismiss(self, clients: Iterable[socket.socket]) -> None:
        for client in clients:
            _answer(client, self._again)


def _answer(client: socket.socket, answer: bytes) -> None:
    with client, contextlib.suppress(OSError):
        client.sendall(answer)
        client.shutdown(socket.SHUT_WR)
