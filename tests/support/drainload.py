"""A hard client for workers that come and go: many kinds of connection, each answer looked at to its last byte.

What is lost is counted by kind and by what was seen. Not lost: a connection that was closed while no request was on
it, and a request behind an answer that said `Connection: close` (RFC 9112, 9.6: to be sent again).
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable

from tests.support.server import Listener

__all__ = ["APP", "KINDS", "Load", "Lost"]

BIG = 400_000

APP = """
import time

def _answer(path, body):
    if path.startswith("/big"):
        return b"%-400000s" % path.encode()
    return path.encode() + b"|" + body

def wsgi(environ, start_response):
    path = environ["PATH_INFO"]
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    if path.startswith("/slow"):
        time.sleep(0.03)
    answer = _answer(path, body)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(answer)))])
    return [answer]

async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    path = scope["path"]
    if path.startswith("/slow"):
        import asyncio
        await asyncio.sleep(0.03)
    answer = _answer(path, body)
    await send({"type": "http.response.start", "status": 200,
                "headers": [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(answer))]})
    await send({"type": "http.response.body", "body": answer})

def __getattr__(name):
    import nativeapp
    return nativeapp.make(name, asgi)
"""
"""Answers with what it was asked, so that no answer can be taken for another."""


async def pause(seconds: float) -> None:
    """A client thinks, or is slow: that is what is tested, and nothing is waited for by it."""
    loop = asyncio.get_running_loop()
    over = loop.create_future()
    loop.call_later(seconds, over.set_result, None)
    await over


class Lost(Exception):
    """A request that was not answered as it should be: what was seen instead."""


class Connection:
    """One connection; its answers are checked."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.writer.write(data)

    async def answer(self, path: str, body: bytes = b"", *, slowly: float = 0.0) -> bool:
        """Read one answer; return whether the connection is kept.

        Raises:
            Lost: it is not whole, or another's.
        """
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            raise Lost(f"closed after {len(error.partial)} bytes of the head") from None
        except OSError as error:
            raise Lost(f"{type(error).__name__} before an answer") from None
        lines = head.decode("latin-1").split("\r\n")
        headers: dict[str, str] = {}
        for name, _, value in (line.lower().partition(":") for line in lines[1:]):
            headers[name] = f"{headers.get(name, '')} {value.strip()}".strip()  # bjoern says "close" and "Keep-Alive"
        if " 200 " not in lines[0] + " ":
            raise Lost(f"status {lines[0][9:12]}")
        content = await self._content(int(headers["content-length"]), slowly)
        wanted = b"%-400000s" % path.encode() if path.startswith("/big") else path.encode() + b"|" + body
        if content != wanted:
            raise Lost("another's answer")
        return "close" not in headers.get("connection", "") and lines[0].startswith("HTTP/1.1")

    async def _content(self, length: int, slowly: float) -> bytes:
        found = b""
        while len(found) < length:
            try:
                piece = await self.reader.read(min(65536, length - len(found)))
            except OSError as error:
                raise Lost(f"{type(error).__name__} in the body") from None
            if not piece:
                raise Lost("closed in the body")
            found += piece
            if slowly:
                await pause(slowly)
        return found

    @property
    def ended(self) -> bool:
        """Has the other side closed it?"""
        return self.reader.at_eof() or self.reader.exception() is not None

    def close(self) -> None:
        """Close it, without a word."""
        self.writer.close()


class Load:
    """All that comes at the workers.

    Args:
        listeners: where to connect; each client takes them in turn.
        keepalive: connections are kept by the server.
        think: seconds at most that a kept connection is silent between two requests.
    """

    def __init__(self, listeners: list[Listener], *, keepalive: bool, think: float) -> None:
        self.listeners = listeners
        self.keepalive = keepalive
        self.think = think
        self.whole = False
        """The server understands only heads that come whole, and one request at a time."""
        self.slowly = listeners
        """Where those connect whose requests come in pieces."""
        self.answered: Counter[str] = Counter()
        self.lost: Counter[tuple[str, str]] = Counter()
        self.over = False
        self.dice = random.Random(7)
        self._number = 0

    async def run(self, meanwhile: Callable[[], Awaitable[None]], clients: int = 3) -> None:
        """Be busy with `clients` of each kind until `meanwhile` is done, and see the last answers."""
        tasks = [asyncio.create_task(self._client(kind, n)) for kind in KINDS for n in range(clients)]
        try:
            await meanwhile()
        finally:
            self.over = True
        await asyncio.wait_for(asyncio.gather(*tasks), 20)

    async def _client(self, kind: str, number: int) -> None:
        while not self.over:
            number += 1
            try:
                where = self.slowly if kind == "post" else self.listeners
                connection = await self._connect(where[number % len(where)])
            except OSError as error:
                self.lost[kind, f"connect: {type(error).__name__}"] += 1
                await pause(0.01)
                continue
            try:
                await asyncio.wait_for(KINDS[kind](self, connection, kind), 10)
            except Lost as lost:
                self.lost[kind, str(lost)] += 1
            except TimeoutError:
                self.lost[kind, "no answer within 10 s"] += 1
            finally:
                connection.close()

    async def _connect(self, listener: Listener) -> Connection:
        where = listener.sock.getsockname()
        if listener.path:
            return Connection(*await asyncio.open_unix_connection(str(listener.path)))
        return Connection(*await asyncio.open_connection(*where[:2]))

    def path(self) -> str:
        """A target that nobody else asks for; some are slow."""
        self._number += 1
        return f"/{'slow' if self._number % 9 == 0 else 'quick'}/{self._number}"

    def head(self, path: str, length: int = 0) -> bytes:
        """The head of a request."""
        method, more = ("POST", f"Content-Length: {length}\r\n") if length else ("GET", "")
        if not self.keepalive:
            more += "Connection: close\r\n"
        return f"{method} {path} HTTP/1.1\r\nHost: example.com\r\n{more}\r\n".encode()

    async def answer(self, connection: Connection, kind: str, path: str, body: bytes = b"", slowly: float = 0) -> bool:
        """Count one answer."""
        kept = await connection.answer(path, body, slowly=slowly)
        self.answered[kind] += 1
        return kept and self.keepalive and not self.over


async def _fresh(load: Load, connection: Connection, kind: str) -> None:
    """One request for each connection."""
    path = load.path()
    connection.send(load.head(path))
    await load.answer(connection, kind, path)


async def _late(load: Load, connection: Connection, kind: str) -> None:
    """Connected, and silent for a while: accepted and not read yet."""
    await pause(load.dice.uniform(0, load.think))
    await _fresh(load, connection, kind)


async def _kept(load: Load, connection: Connection, kind: str) -> None:
    """One request after another."""
    kept = True
    while kept and not connection.ended:
        path = load.path()
        connection.send(load.head(path))
        kept = await load.answer(connection, kind, path)


async def _thinking(load: Load, connection: Connection, kind: str) -> None:
    """Requests with silences between them."""
    kept = True
    while kept and not connection.ended:
        path = load.path()
        connection.send(load.head(path))
        kept = await load.answer(connection, kind, path)
        await pause(load.dice.uniform(0, load.think) if kept else 0)


async def _post(load: Load, connection: Connection, kind: str) -> None:
    """Requests with a body, which comes a little later."""
    kept = True
    while kept and not connection.ended:
        path, body = load.path(), b"%d" % load.dice.getrandbits(64) * 500
        connection.send(load.head(path, len(body)) + body[:100])
        await pause(load.dice.choice([0, 0.002, 0.01]))
        connection.send(body[100:])
        kept = await load.answer(connection, kind, path, body)


async def _slow(load: Load, connection: Connection, kind: str) -> None:
    """The head comes in pieces."""
    if load.whole:
        return await _fresh(load, connection, kind)
    path, body = load.path(), b"slowly"
    request = load.head(path, len(body)) + body
    at = 0
    while at < len(request):
        size = load.dice.randint(5, 60)
        connection.send(request[at : at + size])
        at += size
        await pause(load.dice.uniform(0, 0.03))
    await load.answer(connection, kind, path, body)
    return None


async def _pipelined(load: Load, connection: Connection, kind: str) -> None:
    """Three requests at once."""
    if load.whole or not load.keepalive:
        return await _fresh(load, connection, kind)
    kept = True
    while kept and not connection.ended:
        paths = [load.path() for _ in range(3)]
        connection.send(b"".join(load.head(path) for path in paths))
        for path in paths:
            if kept:
                kept = await load.answer(connection, kind, path)
        await pause(0.005)
    return None


async def _download(load: Load, connection: Connection, kind: str) -> None:
    """A long answer, read slowly."""
    path = f"/big{load.path()}"
    connection.send(load.head(path))
    await load.answer(connection, kind, path, slowly=0.01)


KINDS: dict[str, Callable[[Load, Connection, str], Awaitable[None]]] = {
    "fresh": _fresh,
    "late": _late,
    "kept": _kept,
    "thinking": _thinking,
    "post": _post,
    "slow": _slow,
    "pipelined": _pipelined,
    "download": _download,
}
