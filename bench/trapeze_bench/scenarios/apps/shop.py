"""A small app, WSGI and ASGI, that says which version of it answers and in which process. A copy of it is served.

Its views are another module, imported when the first request comes, as frameworks do it.

    /                a line: version of the app, of the views, pid
    /block?0.02      the same after so many seconds in which the thread does nothing else (in ASGI: the event loop)
    /slow?2          the same after so many seconds; in ASGI without blocking anything
"""

from __future__ import annotations

import asyncio
import importlib
import os
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

VERSION = "1"


def _page() -> bytes:
    views = importlib.import_module("shop_views")
    return f"{VERSION} {views.VERSION} {os.getpid()}\n".encode()


def warm() -> None:
    """Import what is otherwise imported late: for servers that call such a function once, before they fork."""
    _page()


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer every request with one line."""
    body = _page()
    if environ["PATH_INFO"] in ("/block", "/slow"):
        time.sleep(float(environ["QUERY_STRING"]))
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


async def asgi(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """Answer every request with one line; say yes to start-up and shutdown."""
    if scope["type"] == "lifespan":
        while (await receive())["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    body = _page()
    if scope["path"] == "/block":
        time.sleep(float(scope["query_string"]))  # noqa: ASYNC251  (that is what it is for)
    elif scope["path"] == "/slow":
        await asyncio.sleep(float(scope["query_string"]))
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
