"""HTTP/1.1 for the control socket: h11 does the parsing, this file moves its events to and from asyncio.

It knows nothing of services: one connection takes requests, gives each to a handler, and writes what comes back. What
it guards: sizes, idle connections, clients that read slowly (writing waits for them), clients that leave (their handler
is cancelled).
"""

from __future__ import annotations

import asyncio
import http
import logging
import select
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Any, NamedTuple, Protocol

import h11
import msgspec

from trapeze.runtime import peer

__all__ = [
    "AHEAD_LIMIT",
    "BODY_LIMIT",
    "HEADER_LIMIT",
    "IDLE_TIMEOUT",
    "Connection",
    "Peer",
    "Reply",
    "Request",
    "Text",
    "whole",
]

log = logging.getLogger("trapeze.control")

HEADER_LIMIT = 16 * 1024
"""Bytes of request line and headers."""
BODY_LIMIT = 64 * 1024
"""Bytes of a request's body."""
AHEAD_LIMIT = 256 * 1024
"""Bytes that a client may send ahead of its answer."""
IDLE_TIMEOUT = 60.0
"""Seconds within which a request must have come whole."""
_HIGH_WATER = 64 * 1024
"""Bytes that wait for a slow client before its stream pauses."""


class Peer(NamedTuple):
    """Who is at the other end, as the kernel says."""

    pid: int
    uid: int
    gid: int


class Request(NamedTuple):
    """One request, whole."""

    method: str
    target: str
    peer: Peer


class Reply(NamedTuple):
    """One answer: a status and either one JSON value or a stream of them, one a line."""

    status: int
    value: object = None
    lines: AsyncIterator[object] | None = None
    headers: tuple[tuple[str, str], ...] = ()


class Text(NamedTuple):
    """An answer that is no JSON."""

    kind: str
    """Its media type."""
    text: str


Handler = Callable[[Request], Awaitable[Reply]]


class Owner(Protocol):
    """What a connection tells the one that opened the door."""

    def opened(self, connection: Connection) -> tuple[str, str] | None:
        """Code and words with which it is refused; None: it is let in."""
        ...

    def closed(self, connection: Connection) -> None: ...


class Connection(asyncio.Protocol):
    """One client."""

    def __init__(self, owner: Owner, handler: Handler) -> None:
        self._owner = owner
        self._handler = handler
        self._loop = asyncio.get_running_loop()
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEADER_LIMIT)
        self._transport: asyncio.Transport = None  # type: ignore[assignment]  # set by connection_made, before all else
        self._peer = Peer(0, -1, -1)
        self._request: h11.Request | None = None
        self._body = 0
        self._task: asyncio.Task[None] | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._writable = asyncio.Event()
        self._lost = asyncio.Event()
        self._closing = False
        self._farewell = "", ""

    # ---- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=_HIGH_WATER)
        self._writable.set()
        self._peer = Peer(*peer(_socket_of(transport)))
        refused = self._owner.opened(self)
        if refused is None:
            self._await_request()
        else:
            self._refuse(503, *refused)

    def data_received(self, data: bytes) -> None:
        if self._http.our_state in (h11.ERROR, h11.MUST_CLOSE, h11.CLOSED):
            return  # what comes after a refusal
        self._http.receive_data(data)
        if self._task is None:
            self._read()
        elif len(self._http.trailing_data[0]) > AHEAD_LIMIT:
            # Not paused: nobody would see that it has left while its answer is awaited.
            self._transport.abort()

    def eof_received(self) -> bool:
        if self._task is None:
            return False
        # A client that has closed takes no answer; one that has only shut down its writing side still does.
        poller = select.poll()
        poller.register(_socket_of(self._transport).fileno(), 0)
        gone = any(events & select.POLLHUP for _, events in poller.poll(0))
        if not gone:
            self._http.receive_data(b"")
        return not gone

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost.set()
        self._writable.set()
        self._clear_idle()
        if self._task is not None:
            self._task.cancel()
        self._owner.closed(self)

    # ---- the door's side

    @property
    def writing(self) -> bool:
        """Does it wait for an order it has given?"""
        return self._task is not None and self._request is not None and self._request.method == b"POST"

    async def close(self, patience: float, code: str, why: str) -> None:
        """End an open stream in order, answer what waits, and close; cut it off after *patience* seconds."""
        self._closing, self._farewell = True, (code, why)
        task = self._task
        if task is not None:
            task.cancel()
            await asyncio.wait([task], timeout=patience)
        self._transport.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self._lost.wait()
        self._transport.abort()

    # ---- requests

    def _await_request(self) -> None:
        self._clear_idle()
        self._idle = self._loop.call_later(IDLE_TIMEOUT, self._transport.abort)

    def _clear_idle(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def _read(self) -> None:
        """Take events until a request is whole, or more bytes are needed."""
        while self._task is None and not self._transport.is_closing():
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError as error:
                self._refuse(error.error_status_hint, "usage", f"malformed request: {error}")
                return
            if event is h11.NEED_DATA or event is h11.PAUSED:
                return
            self._take(event)

    def _take(self, event: object) -> None:
        match event:
            case h11.Request():
                self._request = event
                self._body = 0
                if self._http.they_are_waiting_for_100_continue:
                    self._send(h11.InformationalResponse(status_code=100, headers=[]))
            case h11.Data():
                # No verb takes a body; a small one is read over, so that the connection can go on.
                self._body += len(event.data)
                if self._body > BODY_LIMIT:
                    self._refuse(413, "usage", f"the body is larger than {BODY_LIMIT} bytes")
            case h11.EndOfMessage() if self._request is not None:
                self._clear_idle()
                self._task = self._loop.create_task(self._serve(self._request))
            case h11.ConnectionClosed():
                self._transport.close()

    async def _serve(self, request: h11.Request) -> None:
        """Answer one request, then look for the next."""
        try:
            await self._answer(request)
        except asyncio.CancelledError:
            if not self._closing:
                return
            self._finish_in_haste()
        except Exception:
            log.exception("control: %s %s", request.method.decode(), request.target.decode("ascii", "replace"))
            self._refuse(500, "bug", "internal error, see the log of the supervisor")
        finally:
            self._task = None
        self._next()

    async def _answer(self, request: h11.Request) -> None:
        reply = await self._handler(Request(request.method.decode(), request.target.decode("ascii"), self._peer))
        head = request.method == b"HEAD"
        if reply.lines is None:
            self._send_whole(reply.status, reply.value, reply.headers, head=head)
            return
        headers = [("content-type", "application/x-ndjson"), *reply.headers]
        self._send(h11.Response(status_code=reply.status, headers=headers, reason=_reason(reply.status)))
        if not head:
            async with aclosing(reply.lines) as lines:  # type: ignore[type-var]  # ours are generators
                async for line in lines:
                    self._send(h11.Data(data=msgspec.json.encode(line) + b"\n"))
                    await self._writable.wait()
        self._send(h11.EndOfMessage())

    def _finish_in_haste(self) -> None:
        """The door closes while a handler waits or streams."""
        code, why = self._farewell
        if self._http.our_state is h11.SEND_BODY:
            if code != "stopping" and self._request is not None and self._request.method == b"POST":
                error = {"code": code, "message": why, "hint": "", "output": [], "problems": []}
                self._send(h11.Data(data=msgspec.json.encode({"error": error, "status": 503}) + b"\n"))
            self._send(h11.EndOfMessage())
        else:
            self._refuse(503, code, why)

    def _next(self) -> None:
        if self._closing or h11.MUST_CLOSE in (self._http.our_state, self._http.their_state):
            self._transport.close()
        elif self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
            self._await_request()
            # A client that sends many at once is answered one request a turn of the loop.
            self._loop.call_soon(self._read_on)
        else:
            self._transport.close()

    def _read_on(self) -> None:
        if self._task is None and not self._transport.is_closing():
            self._read()

    # ---- answers

    def _refuse(self, status: int, code: str, message: str) -> None:
        """Say why, if nothing was said yet, and close."""
        self._clear_idle()
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._send_whole(status, {"code": code, "message": message, "hint": "", "output": [], "problems": []})
        self._transport.close()

    def _send_whole(
        self, status: int, value: object, headers: tuple[tuple[str, str], ...] = (), *, head: bool = False
    ) -> None:
        kind, body = _body(value)
        fixed = [("content-type", kind), ("content-length", str(len(body)))]
        if self._http.their_state not in (h11.DONE, h11.MUST_CLOSE):
            fixed.append(("connection", "close"))  # what follows cannot be told from the rest of this request
        self._send(h11.Response(status_code=status, headers=[*fixed, *headers], reason=_reason(status)))
        if not head:
            self._send(h11.Data(data=body))
        self._send(h11.EndOfMessage())

    def _send(self, event: Any) -> None:
        data = self._http.send(event)
        if data and not self._transport.is_closing():
            self._transport.write(data)


def _body(value: object) -> tuple[str, bytes]:
    """Media type and bytes of an answer."""
    if isinstance(value, Text):
        return value.kind, value.text.encode()
    return "application/json", msgspec.json.encode(value) + b"\n"


def whole(status: int, value: object) -> bytes:
    """Return an answer with JSON, after which the connection closes, for who does without h11."""
    body = msgspec.json.encode(value) + b"\n"
    head = f"HTTP/1.1 {status} {_reason(status).decode()}\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body


def _socket_of(transport: asyncio.BaseTransport) -> socket.socket:
    found: socket.socket = transport.get_extra_info("socket")
    return found


def _reason(status: int) -> bytes:
    """The phrase after the number: nobody may rely on it, and everybody misses it."""
    try:
        return http.HTTPStatus(status).phrase.encode()
    except ValueError:
        return b""
