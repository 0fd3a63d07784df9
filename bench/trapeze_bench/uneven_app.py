"""An app with requests of two kinds: most are answered at once, those for /slow block their worker for a while."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from trapeze_bench import hello

__all__ = ["SECONDS", "asgi", "wsgi"]

SECONDS = 0.2
"""That a slow one takes. In an event loop it blocks the loop: that is the case that hurts."""
BODY = b"ok\n"


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """WSGI."""
    if environ["PATH_INFO"] == "/slow":
        time.sleep(SECONDS)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(BODY)))])
    return [BODY]


async def asgi(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """ASGI."""
    if scope["type"] == "lifespan":
        await hello.asgi(scope, receive, send)
        return
    if scope["path"] == "/slow":
        time.sleep(SECONDS)  # noqa: ASYNC251  (that is what is to be shown)
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(BODY)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": BODY})
