"""A WSGI and an ASGI app that tell about their process, and wait where the test says so.

TEST_WIRE: they write "worker PID" to it when they are imported and keep it open. TEST_GATE: /gate says "in" on the wire
and waits there before it answers. TEST_IMPORT_GATE: the import waits there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

from facts import facts  # type: ignore[import-not-found]  # beside it, when it runs

__all__ = ["asgi", "wsgi"]

_main_thread = facts()
_wire = os.open(os.environ["TEST_WIRE"], os.O_WRONLY) if "TEST_WIRE" in os.environ else -1


def say(text: str) -> None:
    """Write a line on the wire."""
    os.write(_wire, f"{text}\n".encode())


def wait_at(path: str) -> None:
    """Wait until the test opens the gate."""
    with open(path) as gate:
        gate.readline()


def answer(path: str) -> str:
    """The body."""
    if path == "/pid":
        return str(os.getpid())
    if path == "/facts":
        return json.dumps({**facts(), "death_signal": _main_thread["death_signal"], "first_fds": _main_thread["fds"]})
    if path == "/gate":
        say("in")
        wait_at(os.environ["TEST_GATE"])
        return "through the gate"
    if path == "/generation":
        return os.environ["TRAPEZE_GENERATION"]
    return "hello"


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    """The WSGI app."""
    body = answer(environ["PATH_INFO"]).encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


async def asgi(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """The ASGI app."""
    if scope["type"] == "lifespan":
        while (message := await receive())["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": message["type"] + ".complete"})
        return
    body = answer(scope["path"]).encode()
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


if _wire >= 0:
    say(f"worker {os.getpid()}")
if "TEST_IMPORT_GATE" in os.environ:
    wait_at(os.environ["TEST_IMPORT_GATE"])
