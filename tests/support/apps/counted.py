"""An app that keeps a record of what it executes, and says in each answer who gave it.

`/?id=ID&t=SECONDS&n=BYTES` answers with one line (ID, pid, generation, CODE, CRC-32 of the body) and BYTES of padding
that follow from the ID, so that a client can tell a cut or mixed-up answer. Each execution is one line (ID, pid) in the
file CHAOS_RECORD. `/health` answers with HEALTH.
"""

from __future__ import annotations

import os
import zlib
from typing import Any

CODE = "1"
HEALTH = 200

_record = -1


def _write(line: bytes) -> None:
    # Opened at the first request: an open file at import is nothing that a fork could not live with, but this is safer.
    global _record
    if _record < 0:
        _record = os.open(os.environ["CHAOS_RECORD"], os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    os.write(_record, line)


def _query(text: str) -> dict[str, str]:
    return dict(pair.partition("=")[::2] for pair in text.split("&"))


def _answer(query: dict[str, str], body: bytes) -> bytes:
    name = query["id"]
    _write(f"{name} {os.getpid()}\n".encode())
    generation = os.environ.get("TRAPEZE_GENERATION", "?")
    line = f"{name} {os.getpid()} {generation} {CODE} {zlib.crc32(body)}\n".encode()
    size = int(query.get("n", 0))
    return line + (name.encode() * (size // len(name) + 1))[:size]


def wsgi(environ: Any, start_response: Any) -> list[bytes]:
    """Answer as a WSGI app."""
    if environ["PATH_INFO"] == "/health":
        start_response(f"{HEALTH} Health", [("Content-Length", "0")])
        return [b""]
    import time  # at the request: gevent and eventlet have patched it by then

    query = _query(environ["QUERY_STRING"])
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    data = _answer(query, body)
    if float(query.get("t", 0)):
        time.sleep(float(query["t"]))
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(data)))])
    return [data]


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    """Answer as an ASGI app."""
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    status, data = HEALTH, b""
    if scope["path"] != "/health":
        status, data = 200, await _asgi_answer(scope, receive)
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(data))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": data})


def __getattr__(name: str) -> Any:
    """The same as an app of aiohttp or tornado."""
    import nativeapp  # type: ignore[import-not-found]

    return nativeapp.make(name, asgi)


async def _asgi_answer(scope: Any, receive: Any) -> bytes:
    import asyncio

    query = _query(scope["query_string"].decode())
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            break  # the client has gone: what it sent was executed all the same, with the body it had
        body += message.get("body", b"")
        more = message.get("more_body", False)
    data = _answer(query, body)
    if float(query.get("t", 0)):
        await asyncio.sleep(float(query["t"]))
    return data
