"""The app that the conformance checks ask: `wsgi` and `asgi`, and each once more behind a validator.

Runs in the backend's interpreter: standard library only, Python 3.10 and newer.
"""

from __future__ import annotations

import json
import os
import socket
from wsgiref.validate import validator

__all__ = ["asgi", "asgi_validated", "wsgi", "wsgi_validated"]

PIECE = b"0123456789abcdef" * 1024
PIECES = 64
"""A body of 1 MiB."""
PLAIN = ("Content-Type", "text/plain")


def _gate():
    """The inherited socket on which the check is told that a request is here, and says that it may go on."""
    return socket.socket(fileno=os.dup(int(os.environ["GATE"])))


def _pass_the_gate():
    gate = _gate()
    gate.sendall(b"in ")
    gate.recv(1)
    gate.close()


# ---- WSGI ----


def wsgi(environ, start_response):
    """Answer by the path; any that is not known says hello."""
    path = environ["PATH_INFO"]
    handler = _wsgi_facts if path.startswith("/facts") else _WSGI.get(path, _wsgi_hello)
    return handler(environ, start_response)


def _wsgi_body(start_response, body, *headers, status="200 OK"):
    start_response(status, [PLAIN, ("Content-Length", str(len(body))), *headers])
    return [body]


def _wsgi_hello(environ, start_response):
    return _wsgi_body(start_response, b"hello")


def _wsgi_empty(environ, start_response):
    return _wsgi_body(start_response, b"")


def _wsgi_echo(environ, start_response):
    body, length = b"", environ.get("CONTENT_LENGTH") or ""
    left = int(length) if length else None
    while left is None or left > 0:
        if left is None and not environ.get("wsgi.input_terminated"):
            break
        piece = environ["wsgi.input"].read(65536 if left is None else min(left, 65536))
        if not piece:
            break
        body += piece
        left = None if left is None else left - len(piece)
    return _wsgi_body(start_response, body)


def _wsgi_stream(environ, start_response):
    start_response("200 OK", [PLAIN])
    return (PIECE for _ in range(PIECES))


def _wsgi_not_modified(environ, start_response):
    start_response("304 Not Modified", [("ETag", '"1"')])
    return []


def _wsgi_facts(environ, start_response):
    facts: dict = {key: value for key, value in environ.items() if isinstance(value, (str, int, bool))}
    facts["wsgi.version"] = list(environ["wsgi.version"])
    return _wsgi_body(start_response, json.dumps(facts).encode())


def _wsgi_raise(environ, start_response):
    raise ValueError("raised on purpose")


def _wsgi_cookies(environ, start_response):
    return _wsgi_body(start_response, b"", ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"), status="418 I'm a teapot")


def _wsgi_gate(environ, start_response):
    _pass_the_gate()
    return _wsgi_body(start_response, b"passed")


def _wsgi_events(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/event-stream")])
    return _events()


def _events():
    import time

    while True:
        yield b"data: tick\n\n"
        time.sleep(0.05)  # patched where threads are green


_WSGI = {
    "/empty": _wsgi_empty,
    "/echo": _wsgi_echo,
    "/stream": _wsgi_stream,
    "/not-modified": _wsgi_not_modified,
    "/raise": _wsgi_raise,
    "/cookies": _wsgi_cookies,
    "/gate": _wsgi_gate,
    "/events": _wsgi_events,
}


# ---- ASGI ----


async def asgi(scope, receive, send):
    """The same."""
    if scope["type"] == "lifespan":
        await _lifespan(scope, receive, send)
    elif scope["type"] == "websocket":
        await _websocket(receive, send)
    else:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        await (_asgi_facts if path.startswith("/facts") else _ASGI.get(path, _asgi_hello))(scope, receive, send)


async def _lifespan(scope, receive, send):
    how = os.environ.get("LIFESPAN", "")
    if how == "unsupported":
        raise RuntimeError("no lifespan here")
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            if how == "fail":
                await send({"type": "lifespan.startup.failed", "message": "the database is away"})
                return
            if how == "gate":
                await _pass_the_gate_async()
            if "state" in scope:
                scope["state"]["answer"] = 42
        print(f"{message['type']} was run", flush=True)
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def _pass_the_gate_async():
    import asyncio

    gate = _gate()
    gate.setblocking(False)
    gate.sendall(b"in ")
    await asyncio.get_running_loop().sock_recv(gate, 1)
    gate.close()


async def _websocket(receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message.get("text") or ""})


async def _asgi_body(send, body, *headers, status=200):
    length = (b"content-length", b"%d" % len(body))
    kept = [(b"content-type", b"text/plain"), length, *headers]
    await send({"type": "http.response.start", "status": status, "headers": kept})
    await send({"type": "http.response.body", "body": body})


async def _asgi_hello(scope, receive, send):
    await _asgi_body(send, b"hello")


async def _asgi_empty(scope, receive, send):
    await _asgi_body(send, b"")


async def _asgi_echo(scope, receive, send):
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    await _asgi_body(send, body)


async def _asgi_stream(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    for _ in range(PIECES):
        await send({"type": "http.response.body", "body": PIECE, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _asgi_not_modified(scope, receive, send):
    await send({"type": "http.response.start", "status": 304, "headers": [(b"etag", b'"1"')]})
    await send({"type": "http.response.body", "body": b""})


async def _asgi_facts(scope, receive, send):
    kept: dict = {key: value for key, value in scope.items() if isinstance(value, (str, int, list, tuple, type(None)))}
    kept["headers"] = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]]
    kept["query_string"] = scope["query_string"].decode("latin-1")
    raw = scope.get("raw_path")
    kept["raw_path"] = raw if raw is None else raw.decode("latin-1")
    kept["state"] = dict(scope.get("state") or {})
    await _asgi_body(send, json.dumps(kept, default=repr).encode())


async def _asgi_raise(scope, receive, send):
    raise ValueError("raised on purpose")


async def _asgi_cookies(scope, receive, send):
    await _asgi_body(send, b"", (b"set-cookie", b"a=1"), (b"set-cookie", b"b=2"), status=418)


async def _asgi_gate(scope, receive, send):
    await _pass_the_gate_async()
    await _asgi_body(send, b"passed")


async def _asgi_events(scope, receive, send):
    import asyncio

    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    ended = asyncio.ensure_future(_disconnect(receive))
    while not ended.done():
        await send({"type": "http.response.body", "body": b"data: tick\n\n", "more_body": True})
        await asyncio.sleep(0.05)


async def _disconnect(receive):
    while (await receive())["type"] != "http.disconnect":
        continue


_ASGI = {
    "/empty": _asgi_empty,
    "/echo": _asgi_echo,
    "/stream": _asgi_stream,
    "/not-modified": _asgi_not_modified,
    "/raise": _asgi_raise,
    "/cookies": _asgi_cookies,
    "/gate": _asgi_gate,
    "/events": _asgi_events,
}


# ---- validators ----

_checked_wsgi = validator(wsgi)


def wsgi_validated(environ, start_response):
    """The app behind the validator of the standard library; what that does not like is a 500 with its reason."""
    return _checked_wsgi(environ, start_response)


async def asgi_validated(scope, receive, send):
    """The app behind checks of what the ASGI specification says of HTTP and lifespan scopes and events."""
    _check_scope(scope)
    ended = False

    async def receiving():
        message = await receive()
        _check_received(scope["type"], message)
        return message

    async def sending(message):
        nonlocal ended
        assert not ended, "send() was possible after the end"
        result = await send(message)
        assert result is None, f"send() returned {result!r}"
        ended = message["type"] == "http.response.body" and not message.get("more_body", False)

    await asgi(scope, receiving, sending)


def _check_scope(scope):
    assert type(scope) is dict, f"scope is {type(scope)}"
    kind = scope["type"]
    assert kind in ("http", "websocket", "lifespan"), kind
    assert isinstance(scope["asgi"], dict) and isinstance(scope["asgi"]["version"], str), scope["asgi"]
    if "state" in scope:
        assert isinstance(scope["state"], dict), scope["state"]
    if kind == "lifespan":
        return
    assert scope["http_version"] in ("1.0", "1.1", "2"), scope["http_version"]
    assert scope.get("scheme", "http") in ("http", "https", "ws", "wss"), scope["scheme"]
    assert isinstance(scope["path"], str) and scope["path"].startswith("/"), scope["path"]
    assert isinstance(scope.get("raw_path", b""), (bytes, type(None))), scope["raw_path"]
    assert isinstance(scope["query_string"], bytes), scope["query_string"]
    assert isinstance(scope.get("root_path", ""), str), scope["root_path"]
    if kind == "http":
        assert scope["method"] == scope["method"].upper(), scope["method"]
    _check_headers(scope["headers"])
    for end in ("server", "client"):
        _check_address(end, scope.get(end))


def _check_headers(headers):
    for name, value in headers:
        assert isinstance(name, bytes) and isinstance(value, bytes), (name, value)
        assert name == name.lower(), f"the name of header {name!r} is not in lower case"


def _check_address(end, address):
    if address is None:
        return
    host, port = address
    assert isinstance(host, str), f"{end}: {address!r}"
    assert isinstance(port, int) or (end == "server" and port is None), f"{end}: {address!r}"


def _check_received(kind, message):
    assert type(message) is dict, f"receive() returned {type(message)}"
    if kind == "http":
        assert message["type"] in ("http.request", "http.disconnect"), message["type"]
        assert isinstance(message.get("body", b""), bytes), "a body that is not bytes"
        assert isinstance(message.get("more_body", False), bool), "more_body that is not a bool"
    elif kind == "lifespan":
        assert message["type"] in ("lifespan.startup", "lifespan.shutdown"), message["type"]
