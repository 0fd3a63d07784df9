"""Stands for apps that wait: for a database, for another service. 50 ms without work; `?ms=200` for others.

The WSGI app blocks its thread meanwhile, as most libraries do; the ASGI app leaves its loop to others.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

from trapeze_bench.apps.plain import Receive, Scope, Send, Start, WsgiEnviron, answer, lifespan, number, start

__all__ = ["asgi", "wsgi"]

MILLISECONDS = 50
GREATEST = 10_000
BODY = b"slept\n"


def wsgi(environ: WsgiEnviron, start_response: Start) -> Iterable[bytes]:
    """Sleep, holding the thread."""
    time.sleep(number(environ.get("QUERY_STRING", ""), "ms", MILLISECONDS, GREATEST) / 1000)
    start(start_response, len(BODY))
    return [BODY]


async def asgi(scope: Scope, receive: Receive, send: Send) -> None:
    """Sleep, while others are served."""
    if scope["type"] == "lifespan":
        return await lifespan(receive, send)
    await asyncio.sleep(number(scope["query_string"].decode("latin-1"), "ms", MILLISECONDS, GREATEST) / 1000)
    await answer(send, BODY)
