"""Follows what the supervisor says of itself, from the first revision to the last."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from tests.support.server import Trapeze
from tests.support.wait import until

__all__ = ["Watch"]


class Watch:
    """All transitions, read by a thread from `GET /events?follow=1`."""

    def __init__(self, server: Trapeze) -> None:
        self.events: list[dict[str, Any]] = []
        self.offset = time.monotonic() - time.time()
        """Makes CLOCK_MONOTONIC of the time of an event."""
        self._server = server
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="watch", daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        while not self._over.is_set() and self._server.process.poll() is None:
            try:
                self._read()
            except (OSError, http.client.HTTPException):
                self._over.wait(0.02)  # it is gone, or it is becoming another program

    def _read(self) -> None:
        since = self.events[-1]["revision"] if self.events else 0
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(self._server.door))
            sock.sendall(f"GET /events?follow=1&since={since} HTTP/1.1\r\nHost: trapeze\r\n\r\n".encode())
            with http.client.HTTPResponse(sock) as answer:
                answer.begin()
                for line in answer:
                    event = json.loads(line)
                    if "revision" in event:  # or it says why there are none: ask again
                        self.events.append(event)

    def wait(self, wanted: Callable[[dict[str, Any]], bool], what: str, *, start: int = 0, timeout: float = 30) -> None:
        """Wait for a transition, from that number on."""
        until(lambda: any(wanted(event) for event in self.events[start:]), timeout=timeout, what=what)

    def ended(self, pid: int, timeout: float = 30) -> None:
        """Wait until the end of a process is known."""
        self.wait(lambda event: event["pid"] == pid and event["to"] == "EXITED", f"the end of {pid}", timeout=timeout)

    def close(self) -> None:
        """Stop after the supervisor has ended."""
        self._over.set()
        self._thread.join(10)
        assert not self._thread.is_alive(), "the stream of events did not end with the supervisor"
