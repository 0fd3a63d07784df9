"""Requests of an ASGI app, known while they last: what a draining worker waits for, tells, and ends.

All in terms of ASGI, around the app, so that it holds for any server: answers say `Connection: close` once the worker
leaves; what has no end (`endless`) is ended by the server's own `send`, in an orderly way for the client, and the app
hears a disconnect. An app that does not listen for that is cancelled a moment later.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Any

from trapeze_backends.endless import is_endless_raw

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from trapeze_backends.worker import Worker

__all__ = ["Exchanges"]

CLOSE = (b"connection", b"close")

DEAF = 1.0
"""Seconds after which an app that was told to end its answer, and has not, is cancelled."""

RESTART = 1012
"""The code with which WebSockets are closed: service restart."""


class Exchanges:
    """All of one worker.

    Attributes:
        begun: how many there have been.
        live: those that the app is at work on.
    """

    def __init__(self, worker: Worker) -> None:
        self.begun = 0
        self.live: set[Exchange] = set()
        self._worker = worker
        self._told: dict[Exchange, float] = {}

    def counts(self) -> tuple[int, int]:
        """As `Worker.beat` takes them."""
        return self.begun, len(self.live)

    def around(self, app: Any, server: tuple[str, None] | None = None) -> Any:
        """Return `app`, its requests noted.

        Args:
            app: ASGI 3.
            server: what `scope["server"]` is to be, for a Unix socket: the server knows only the name that it was
                bound with.
        """
        live, worker = self.live, self._worker

        async def noted(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "lifespan":
                await app(scope, receive, send)
                return
            if server is not None:
                scope["server"] = server
            one = Exchange(scope, receive, send, worker)
            self.begun += 1
            live.add(one)
            try:
                await app(scope, one.receive, one.send)
            finally:
                live.discard(one)

        return noted

    async def end_endless(self) -> None:
        """End what has no end; to be called again and again once the grace is over."""
        time = monotonic()
        for one in [one for one in self.live if one not in self._told and one.is_endless]:
            self._told[one] = time
            await one.end()
        for one, since in self._told.items():
            if time >= since + DEAF and one in self.live:
                one.task.cancel()

    def cancel(self) -> Iterable[asyncio.Task[Any]]:
        """Cancel what is left; returns it."""
        tasks = [one.task for one in self.live]
        for task in tasks:
            task.cancel()
        return tasks


class Exchange:
    """One request, or one WebSocket."""

    __slots__ = (
        "_accepted",
        "_ended",
        "_head",
        "_inside",
        "_receive",
        "_send",
        "_tells",
        "_websocket",
        "_worker",
        "task",
    )

    def __init__(self, scope: Any, receive: Any, send: Any, worker: Worker) -> None:
        self.task: asyncio.Task[Any] = asyncio.current_task()  # type: ignore[assignment]
        self._receive = receive
        self._send = send
        self._worker = worker
        self._websocket = scope["type"] == "websocket"
        self._tells = not self._websocket and str(scope.get("http_version", "1.1"))[:1] == "1"
        """HTTP/2 has no such header."""
        self._accepted = False
        self._ended = False
        self._head: Any = None
        self._inside: asyncio.Task[Any] | None = None

    @property
    def is_endless(self) -> bool:
        """Does it go on until somebody ends it?"""
        if self._websocket:
            return self._accepted
        return self._head is not None and is_endless_raw(self._head)

    async def send(self, message: Any) -> None:
        """What the app sends. After the end it goes nowhere."""
        if self._ended:
            return
        kind = message["type"]
        if kind == "http.response.start":
            self._head = message.get("headers", ())
            if self._worker.stopping and self._tells:
                names = [pair for pair in self._head if bytes(pair[0]).lower() != CLOSE[0]]
                message = {**message, "headers": [*names, CLOSE]}
        elif kind == "http.response.body":
            if not message.get("more_body"):
                self._head = None
        elif kind == "websocket.accept":
            self._accepted = True
        elif kind == "websocket.close":
            self._accepted = False
        await self._send(message)

    async def receive(self) -> Any:
        """What the app is told."""
        if self._ended:
            return self._gone()
        self._inside = asyncio.current_task()
        try:
            return await self._receive()
        except asyncio.CancelledError:
            if not self._is_ours():
                raise
            return self._gone()
        finally:
            self._inside = None

    def _is_ours(self) -> bool:
        """Is it `end` that has cancelled what waits in `receive`?"""
        uncancel = getattr(asyncio.current_task(), "uncancel", None)  # Python 3.11 counts them
        if self._ended and uncancel is not None:
            uncancel()
        return self._ended

    def _gone(self) -> dict[str, Any]:
        return {"type": "websocket.disconnect", "code": RESTART} if self._websocket else {"type": "http.disconnect"}

    async def end(self) -> None:
        """End it: first for the client, then for the app."""
        self._ended = True
        last: dict[str, Any] = {"type": "http.response.body", "body": b"", "more_body": False}
        if self._websocket:
            last = {"type": "websocket.close", "code": RESTART}
        try:
            await self._send(last)
        except Exception:  # whatever a server raises whose client has gone
            self._accepted = False
        if self._inside is not None:
            self._inside.cancel()
