"""Stands for forms and files that are sent in: reads the whole body in pieces and answers with its length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from trapeze_bench.apps.plain import Receive, Scope, Send, Start, WsgiEnviron, answer, lifespan, start

__all__ = ["asgi", "wsgi"]

PIECE = 64 * 1024


def _pieces(environ: WsgiEnviron) -> Iterator[bytes]:
    """As far as the length says; to the end where the server marks it (a chunked body has no length)."""
    source: Any = environ["wsgi.input"]
    left = int(environ.get("CONTENT_LENGTH") or 0)
    endless = left == 0 and bool(environ.get("wsgi.input_terminated"))
    while endless or left:
        piece: bytes = source.read(PIECE if endless else min(PIECE, left))
        if not piece:
            return
        left -= 0 if endless else len(piece)
        yield piece


def wsgi(environ: WsgiEnviron, start_response: Start) -> Iterable[bytes]:
    """Read, count, answer."""
    body = b"%d\n" % sum(map(len, _pieces(environ)))
    start(start_response, len(body))
    return [body]


async def asgi(scope: Scope, receive: Receive, send: Send) -> None:
    """Read, count, answer; nothing to a client that has gone."""
    if scope["type"] == "lifespan":
        return await lifespan(receive, send)
    length = 0
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        length += len(message.get("body", b""))
        more = message.get("more_body", False)
    await answer(send, b"%d\n" % length)
