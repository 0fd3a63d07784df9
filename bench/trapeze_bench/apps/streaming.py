"""Stands for answers that are made while they are sent: 64 chunks of 1 KiB, the length not known before.

Each chunk is one write of the server: this is where the cost of a write is seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from trapeze_bench.apps.plain import Receive, Scope, Send, Start, WsgiEnviron, lifespan, start

__all__ = ["asgi", "wsgi"]

CHUNKS = 64
CHUNK = 1024


def _chunks() -> Iterator[bytes]:
    for number in range(CHUNKS):
        yield b"%0*d\n" % (CHUNK - 1, number)


def wsgi(environ: WsgiEnviron, start_response: Start) -> Iterable[bytes]:
    """A generator."""
    start(start_response, None)
    return _chunks()


async def asgi(scope: Scope, receive: Receive, send: Send) -> None:
    """A message for each chunk."""
    if scope["type"] == "lifespan":
        return await lifespan(receive, send)
    headers = [(b"content-type", b"text/plain")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for chunk in _chunks():
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b""})
