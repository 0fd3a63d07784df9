"""Around an ASGI app: what a leaving worker tells and ends, in terms of ASGI alone."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from trapeze_backends import exchanges
from trapeze_backends.exchanges import Exchanges


class Leaving:
    """A worker, as far as it is asked."""

    def __init__(self, stopping: bool = True) -> None:
        self.stopping = stopping


class Server:
    """A server's end of a request: what it was sent, and what it says."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.says: asyncio.Queue[Any] = asyncio.Queue()

    async def send(self, message: Any) -> None:
        self.sent.append(message)


HTTP = {"type": "http", "http_version": "1.1"}
EVENTS = {"type": "http.response.start", "status": 200, "headers": [(b"Content-Type", b"text/event-stream")]}
PIECE = {"type": "http.response.body", "body": b"x", "more_body": True}
LAST = {"type": "http.response.body", "body": b"", "more_body": False}
GONE = {"type": "http.disconnect"}


async def under_way(app: Any, scope: Any, worker: Any) -> tuple[Exchanges, Server, asyncio.Task[None]]:
    """Start one request, and let it come to where it waits."""
    all_of_them, server = Exchanges(worker), Server()
    task = asyncio.ensure_future(all_of_them.around(app)(dict(scope), server.says.get, server.send))
    for _ in range(3):
        await asyncio.sleep(0)
    return all_of_them, server, task


@pytest.mark.parametrize(
    ("version", "stopping", "told"),
    [("1.1", True, True), ("1.0", True, True), ("2", True, False), ("1.1", False, False)],
)
def test_answers_say_that_the_connection_closes(version: str, stopping: bool, told: bool) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"X-Thing", b"one"), (b"Connection", b"keep-alive")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send(LAST)

    async def run() -> Any:
        _, server, task = await under_way(app, {**HTTP, "http_version": version}, Leaving(stopping))
        await task
        return server.sent[0]["headers"]

    headers = asyncio.run(run())
    assert ((b"connection", b"close") in headers) == told
    assert ((b"Connection", b"keep-alive") in headers) != told
    assert (b"X-Thing", b"one") in headers


def test_events_are_ended_and_the_app_hears_of_it() -> None:
    heard = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(EVENTS)
        await send(PIECE)
        heard.append(await receive())
        heard.append(await receive())
        await send(PIECE)

    async def run() -> list[Any]:
        live, server, task = await under_way(app, HTTP, Leaving())
        assert live.counts() == (1, 1)
        await live.end_endless()
        await live.end_endless()
        await task
        assert not task.cancelled() and live.counts() == (1, 0)
        return server.sent

    sent = asyncio.run(run())
    assert sent[1:] == [PIECE, LAST], "what the app sends after the end goes nowhere"
    assert heard == [GONE, GONE]


def test_a_receive_in_a_task_of_its_own_is_woken_too() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(EVENTS)
        listening = asyncio.ensure_future(receive())
        await asyncio.wait([listening])
        assert listening.result() == GONE

    async def run() -> None:
        live, _, task = await under_way(app, HTTP, Leaving())
        await live.end_endless()
        await task

    asyncio.run(run())


def test_one_that_does_not_listen_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchanges, "DEAF", 0.0)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(EVENTS)
        await asyncio.Event().wait()

    async def run() -> bool:
        live, _, task = await under_way(app, HTTP, Leaving())
        await live.end_endless()
        await asyncio.wait([task])
        return task.cancelled()

    assert asyncio.run(run())


def test_what_has_an_end_goes_on() -> None:
    """A download, and an answer whose events are over."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({**EVENTS, "headers": [(b"content-type", b"text/csv")]} if scope["path"] == "/csv" else EVENTS)
        await send(PIECE if scope["path"] == "/csv" else LAST)
        await receive()

    async def run(path: str) -> None:
        live, server, task = await under_way(app, {**HTTP, "path": path}, Leaving())
        await live.end_endless()
        assert not task.done() and len(server.sent) == 2
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled(), "a cancellation that is not ours is the app's"

    asyncio.run(run("/csv"))
    asyncio.run(run("/over"))


def test_websockets_are_closed_once_they_are_open() -> None:
    heard = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        heard.append((await receive())["type"])
        await send({"type": "websocket.accept"})
        heard.append(await receive())

    async def run() -> list[Any]:
        live, server, task = await under_way(app, {"type": "websocket"}, Leaving())
        await live.end_endless()
        assert server.sent == [], "a handshake is a request like others"
        server.says.put_nowait({"type": "websocket.connect"})
        for _ in range(3):
            await asyncio.sleep(0)
        await live.end_endless()
        await task
        return server.sent

    assert asyncio.run(run()) == [{"type": "websocket.accept"}, {"type": "websocket.close", "code": 1012}]
    assert heard == ["websocket.connect", {"type": "websocket.disconnect", "code": 1012}]


def test_a_client_that_has_gone_is_no_error() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(EVENTS)
        await receive()

    async def run() -> None:
        live, _, task = await under_way(app, HTTP, Leaving())

        async def broken(message: Any) -> None:
            raise ConnectionResetError

        next(iter(live.live))._send = broken
        await live.end_endless()
        await task

    asyncio.run(run())


def test_unix_sockets_have_their_path() -> None:
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope.get("server"))

    async def run() -> None:
        around = Exchanges(Leaving()).around(app, ("/run/shop.sock", None))  # type: ignore[arg-type]
        await around({**HTTP, "server": ("/run/.private", None)}, None, None)
        await around({"type": "lifespan"}, None, None)

    asyncio.run(run())
    assert seen == [("/run/shop.sock", None), None]
