"""Stands for downloads and large pages: 1 MB (1,000,000 bytes) in one piece, its length known."""

from __future__ import annotations

from collections.abc import Iterable

from trapeze_bench.apps.plain import Receive, Scope, Send, Start, WsgiEnviron, answer, lifespan, start

__all__ = ["asgi", "wsgi"]

BODY = b"0123456789" * 100_000
KIND = "application/octet-stream"


def wsgi(environ: WsgiEnviron, start_response: Start) -> Iterable[bytes]:
    """The same body every time."""
    start(start_response, len(BODY), KIND)
    return [BODY]


async def asgi(scope: Scope, receive: Receive, send: Send) -> None:
    """The same body every time."""
    if scope["type"] == "lifespan":
        return await lifespan(receive, send)
    await answer(send, BODY, KIND)
