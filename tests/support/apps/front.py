"""A WSGI and an ASGI app for what nginx does with requests: they tell what they were told, stream, count, and die.

As an app of aiohttp or tornado too, which does what the ASGI app says (`nativeapp`).

TEST_COUNT: each POST adds a line to this file. TEST_GATE: streams wait there after their first event. TEST_WIRE: said
on it is who has gone.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["BIG", "asgi", "wsgi"]

BIG = 16 * 2**20
"""Bytes of the answer that slow readers get: more than sockets hold."""


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    import nativeapp  # type: ignore[import-not-found]

    return nativeapp.make(name, asgi)


def count(path: str) -> None:
    """Note a POST before it is answered."""
    with open(os.environ["TEST_COUNT"], "a") as file:
        file.write(f"{path} {os.getpid()}\n")


def say(text: str) -> None:
    """Write a line on the wire."""
    with open(os.environ["TEST_WIRE"], "w") as wire:
        wire.write(f"{text}\n")


def wait_at_gate() -> None:
    """Wait until the test opens it."""
    with open(os.environ["TEST_GATE"]) as gate:
        gate.readline()


def answer(method: str, path: str, told: dict[str, Any], body: bytes) -> bytes:
    """The body of an answer."""
    if method == "POST":
        count(path)
    if path.endswith("/die"):
        os.kill(os.getpid(), signal.SIGKILL)
    if path.endswith("/echo"):
        return json.dumps({"size": len(body), "sum": hashlib.sha256(body).hexdigest()}).encode()
    if path.endswith("/big"):
        return bytes(BIG)
    return json.dumps(told).encode()


def forwarded(pairs: list[tuple[str, str]]) -> dict[str, list[str]]:
    """What could tell of the client, by name."""
    found: dict[str, list[str]] = {}
    for name, value in pairs:
        if name.startswith(("x-", "forwarded", "proxy", "upgrade")):
            found.setdefault(name, []).append(value)
    return found


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
    """The WSGI app."""
    path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
    if path == "/events" or path == "/endless":
        start_response("200 OK", [("Content-Type", "text/event-stream")])
        return events() if path == "/events" else endless()
    if environ.get("wsgi.websocket"):
        return talk(environ["wsgi.websocket"])
    body = whole(environ)
    pairs = [(key[5:].replace("_", "-").lower(), value) for key, value in environ.items() if key.startswith("HTTP_")]
    told = {
        "client": environ["REMOTE_ADDR"],
        "scheme": environ["wsgi.url_scheme"],
        "host": environ["HTTP_HOST"],
        "told": forwarded(pairs),
        "connection": environ.get("HTTP_CONNECTION", ""),
    }
    data = answer(method, path, told, body)
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(data)))])
    return [data]


def whole(environ: dict[str, Any]) -> bytes:
    """The request's body. Not more is read than was announced: some servers hand out the connection itself."""
    left, pieces = int(environ.get("CONTENT_LENGTH") or 0), []
    while left and (piece := environ["wsgi.input"].read(min(left, 65536))):
        left -= len(piece)
        pieces.append(piece)
    return b"".join(pieces)


def talk(socket: Any) -> list[bytes]:
    """A WebSocket of gevent-websocket that says everything back."""
    while (said := socket.receive()) is not None:
        socket.send(said)
    return []


def events() -> Iterator[bytes]:
    """One event, and another when the test has seen the first."""
    yield b"data: 1\n\n"
    wait_at_gate()
    yield b"data: 2\n\n"


def endless() -> Iterator[bytes]:
    """Events for as long as somebody reads."""
    try:
        while True:
            yield b"data: more\n\n"
            time.sleep(0.01)
    finally:
        say("gone")


async def asgi(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """The ASGI app."""
    if scope["type"] == "lifespan":
        while (message := await receive())["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": message["type"] + ".complete"})
    elif scope["type"] == "websocket":
        await echo_socket(receive, send)
    elif scope["path"] in ("/events", "/endless"):
        await stream(scope["path"], receive, send)
    else:
        await plain(scope, receive, send)


async def plain(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """An ordinary request."""
    body, more = bytearray(), True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    pairs = [(name.decode(), value.decode()) for name, value in scope["headers"]]
    told = {
        "client": scope["client"][0] if scope.get("client") else "",
        "scheme": scope["scheme"],
        "host": dict(pairs)["host"],
        "told": forwarded(pairs),
        "connection": dict(pairs).get("connection", ""),
    }
    data = answer(scope["method"], scope["path"], told, bytes(body))
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": data})


async def stream(path: str, receive: Any, send: Any) -> None:
    """Events."""
    import asyncio

    await receive()
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    if path == "/events":
        await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
        await asyncio.to_thread(wait_at_gate)
        await send({"type": "http.response.body", "body": b"data: 2\n\n"})
        return
    gone = asyncio.ensure_future(receive())
    while not gone.done():
        await send({"type": "http.response.body", "body": b"data: more\n\n", "more_body": True})
        await asyncio.sleep(0.01)
    say("gone")


async def echo_socket(receive: Any, send: Any) -> None:
    """A WebSocket that says everything back."""
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})
