"""The ASGI apps of the tests once more, as apps of aiohttp and tornado: their own handlers do what the ASGI app says.

So that one test holds for all servers, whatever kind of app they run. It is copied beside the app (`workerkit`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import unquote

__all__ = ["make"]


def make(interface: str, asgi: Any) -> Any:
    """Return an app of "aiohttp" or "tornado" that answers as `asgi` does; AttributeError for any other name."""
    if interface == "aiohttp":
        return aiohttp_app(asgi)
    if interface == "tornado":
        return tornado_app(asgi)
    raise AttributeError(interface)


def _scope(kind: str, request: Any, *, path: str, root_path: str, target: str, sockname: Any, peer: Any) -> Any:
    headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in request.headers.items()]
    hosts = [(b"host", request.host.encode())]
    encoded, _, query = target.partition("?")
    return {
        "type": kind,
        "method": request.method,
        "path": path,
        "root_path": root_path,
        "raw_path": encoded.encode(),
        "query_string": query.encode(),
        "headers": hosts + [(name, value) for name, value in headers if name != b"host"],
        "server": list(sockname[:2]) if isinstance(sockname, tuple) else [sockname, None],
        "client": peer,
    }


def _peer(address: str, name: Any) -> list[Any] | None:
    """Address and port: neither framework tells the port of a client."""
    if not address:
        return None
    return [address, name[1] if isinstance(name, tuple) and name[0] == address else 0]


class Lifespan:
    """The start-up and the shutdown of the ASGI app."""

    def __init__(self, asgi: Any) -> None:
        self.asgi = asgi
        self.state: dict[str, Any] = {}

    async def context(self, app: Any) -> AsyncIterator[None]:
        """As aiohttp's `cleanup_ctx` wants it."""
        messages: asyncio.Queue[Any] = asyncio.Queue()
        answers: asyncio.Queue[Any] = asyncio.Queue()
        scope = {"type": "lifespan", "state": self.state}
        task = asyncio.ensure_future(self.asgi(scope, messages.get, answers.put))
        messages.put_nowait({"type": "lifespan.startup"})
        await asyncio.wait({task, asyncio.ensure_future(answers.get())}, return_when=asyncio.FIRST_COMPLETED)
        yield
        messages.put_nowait({"type": "lifespan.shutdown"})
        await asyncio.wait({task})


# ---- aiohttp ----


def aiohttp_app(asgi: Any) -> Any:
    """An `aiohttp.web.Application`."""
    from aiohttp import web

    lifespan = Lifespan(asgi)

    async def handle(request: Any) -> Any:
        tail = request.match_info["tail"]
        scope = _scope(
            "http",
            request,
            path=request.path,
            root_path=request.path[: len(request.path) - len(tail) - 1],
            target=request.raw_path,
            sockname=request.transport.get_extra_info("sockname"),
            peer=_peer(request.remote or "", request.transport.get_extra_info("peername")),
        )
        scope["scheme"] = request.scheme
        scope["state"] = dict(lifespan.state)
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await _aiohttp_websocket(asgi, scope, request, web)
        exchange = _AiohttpExchange(request, web)
        await asgi(scope, exchange.receive, exchange.send)
        return exchange.response

    app = web.Application(client_max_size=2**26)
    app.router.add_route("*", "/{tail:.*}", handle)
    app.cleanup_ctx.append(lifespan.context)
    return app


class _AiohttpExchange:
    """A request: `web.Response` for an answer in one piece, `web.StreamResponse` for others."""

    def __init__(self, request: Any, web: Any) -> None:
        self.request = request
        self.web = web
        self.response: Any = None
        self.start: Any = None
        self.gone = asyncio.Event()
        self.is_read = False

    async def receive(self) -> Any:
        if not self.is_read:
            self.is_read = True
            return {"type": "http.request", "body": await self.request.read(), "more_body": False}
        with contextlib.suppress(asyncio.CancelledError):  # how aiohttp tells a handler
            await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.start = message
            return
        body, more = message.get("body", b""), message.get("more_body")
        headers = {name.decode(): value.decode() for name, value in self.start["headers"]}
        if self.response is None and not more:
            self.response = self.web.Response(status=self.start["status"], headers=headers, body=body)
            return
        try:
            if self.response is None:
                self.response = self.web.StreamResponse(status=self.start["status"], headers=headers)
                await self.response.prepare(self.request)
            await self.response.write(body)
        except ConnectionError:
            self.gone.set()


async def _aiohttp_websocket(asgi: Any, scope: Any, request: Any, web: Any) -> Any:
    socket = web.WebSocketResponse()
    is_connected = False

    async def receive() -> Any:
        nonlocal is_connected
        if not is_connected:
            is_connected = True
            return {"type": "websocket.connect"}
        message = await socket.receive()
        if message.type == web.WSMsgType.TEXT:
            return {"type": "websocket.receive", "text": message.data}
        return {"type": "websocket.disconnect", "code": socket.close_code}

    async def send(message: Any) -> None:
        if message["type"] == "websocket.accept":
            await socket.prepare(request)
        elif message["type"] == "websocket.send":
            await socket.send_str(message["text"])

    await asgi({**scope, "type": "websocket"}, receive, send)
    return socket


# ---- tornado ----


def tornado_app(asgi: Any) -> Any:
    """A `tornado.web.Application`."""
    from tornado import routing, web, websocket

    class Handler(web.RequestHandler):
        async def answer(self, *args: str) -> None:
            self.exchange = _TornadoExchange(self)
            await asgi(_tornado_scope(self.request), self.exchange.receive, self.exchange.send)

        get = post = put = delete = head = patch = options = answer

        def compute_etag(self) -> None:
            """No digest of each answer."""

        def on_connection_close(self) -> None:
            self.exchange.gone.set()

    class WebSocket(websocket.WebSocketHandler):
        def open(self, *args: str) -> None:
            self.messages: asyncio.Queue[Any] = asyncio.Queue()
            self.messages.put_nowait({"type": "websocket.connect"})
            scope = {"type": "websocket", "path": self.request.path, "headers": []}
            self.task = asyncio.ensure_future(asgi(scope, self.messages.get, self.send))

        async def send(self, message: Any) -> None:
            if message["type"] == "websocket.send":
                await self.write_message(message["text"])

        def on_message(self, message: Any) -> None:
            self.messages.put_nowait({"type": "websocket.receive", "text": message})

        def on_close(self) -> None:
            self.messages.put_nowait({"type": "websocket.disconnect", "code": self.close_code})

    class Upgrade(routing.Matcher):
        def match(self, request: Any) -> Any:
            return {} if request.headers.get("Upgrade", "").lower() == "websocket" else None

    return web.Application([(Upgrade(), WebSocket), (r"(/.*)", Handler)])


def _tornado_scope(request: Any) -> Any:
    target = request.uri.partition("?")[0]
    sock = request.connection.stream.socket
    scope = _scope(
        "http",
        request,
        path=unquote(target),
        root_path=target.removesuffix(request.path),
        target=request.uri,
        sockname=sock.getsockname(),
        # 0.0.0.0 is what tornado says of who has no address
        peer=_peer(request.remote_ip.replace("0.0.0.0", ""), sock.getpeername()),
    )
    scope["scheme"] = request.protocol
    return scope


class _TornadoExchange:
    """A request of a RequestHandler."""

    def __init__(self, handler: Any) -> None:
        self.handler = handler
        self.gone = asyncio.Event()
        self.is_read = False

    async def receive(self) -> Any:
        if not self.is_read:
            self.is_read = True
            return {"type": "http.request", "body": self.handler.request.body, "more_body": False}
        with contextlib.suppress(asyncio.CancelledError):
            await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        from tornado.iostream import StreamClosedError

        if message["type"] == "http.response.start":
            self.handler.set_status(message["status"])
            for name, value in message["headers"]:
                self.handler.set_header(name.decode(), value.decode())
            return
        try:
            self.handler.write(message.get("body", b""))
            await (self.handler.flush() if message.get("more_body") else self.handler.finish())
        except StreamClosedError:
            self.gone.set()
