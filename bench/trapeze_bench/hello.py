"""The app that is measured: one line that says which worker answered. WSGI and ASGI.

Not examples/hello.py: that one shows the smallest app there is, and does not say who it is.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

__all__ = ["asgi", "wsgi"]

BODY = b""
HEADERS: list[tuple[str, str]] = []
RAW_HEADERS: list[tuple[bytes, bytes]] = []


def _introduce() -> None:
    """Make the answer of this process, once: a request costs no more for it."""
    global BODY, HEADERS, RAW_HEADERS
    BODY = f"hello, world from {os.getpid()}\n".encode()
    HEADERS = [("Content-Type", "text/plain"), ("Content-Length", str(len(BODY)))]
    RAW_HEADERS = [(name.lower().encode(), value.encode()) for name, value in HEADERS]


_introduce()
# A preloaded app is imported in one process and answers in others.
os.register_at_fork(after_in_child=_introduce)


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer every request with one line."""
    start_response("200 OK", HEADERS)
    return [BODY]


async def asgi(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """Answer every request with one line; say yes to start-up and shutdown."""
    if scope["type"] == "lifespan":
        while (message := await receive())["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": message["type"] + ".complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": RAW_HEADERS})
    await send({"type": "http.response.body", "body": BODY})
