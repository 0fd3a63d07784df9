"""An app whose import makes 100 MB of Python objects, as large frameworks and catalogues do. WSGI and ASGI.

/            looks at one of the objects (which writes its reference count), and says which process answers
/collect     the same after a full garbage collection
"""

from __future__ import annotations

import gc
import itertools
import os
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

ITEMS = 128_000
"""Some 870 bytes each."""
CATALOGUE = [{"id": n, "name": f"item {n}", "price": n * 1.19, "text": f"{n} " * 70} for n in range(ITEMS)]
_numbers = itertools.count()


def _page(path: str) -> bytes:
    if path == "/collect":
        gc.collect()
    item = CATALOGUE[next(_numbers) * 7919 % ITEMS]
    return f"{item['name']} from {os.getpid()}\n".encode()


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer every request with one line."""
    body = _page(environ["PATH_INFO"])
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
    body = _page(scope["path"])
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
