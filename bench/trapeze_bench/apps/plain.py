"""What the apps without a framework have in common: the parts of WSGI and ASGI that each would write again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs

__all__ = ["Receive", "Scope", "Send", "Start", "WsgiEnviron", "answer", "lifespan", "number", "start"]

WsgiEnviron = dict[str, Any]
Start = Callable[..., Any]
Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


def number(query: str, name: str, default: int, greatest: int) -> int:
    """A whole number of the query, from 0 to `greatest`; the default where it is none."""
    found = parse_qs(query).get(name, [""])[0]
    return min(int(found), greatest) if found.isascii() and found.isdigit() else default


def start(start_response: Start, length: int | None, kind: str = "text/plain") -> None:
    """Say 200, and how long the body is if that is known."""
    lengths = [] if length is None else [("Content-Length", str(length))]
    start_response("200 OK", [("Content-Type", kind), *lengths])


async def answer(send: Send, body: bytes, kind: str = "text/plain") -> None:
    """Answer 200 with a body in one piece."""
    headers = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def lifespan(receive: Receive, send: Send) -> None:
    """Say yes to start-up and shutdown."""
    while (await receive())["type"] == "lifespan.startup":
        await send({"type": "lifespan.startup.complete"})
    await send({"type": "lifespan.shutdown.complete"})
