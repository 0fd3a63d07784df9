"""The PROXY protocol (haproxy.org, proxy-protocol.txt), where a server has it: only of whom trusted_proxies names."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.server import Listener
from tests.support.workerkit import WorkerProcess

Make = Callable[..., Any]
Spawn = Callable[..., WorkerProcess]

CLASSES = {"sync": "wsgi", "gthread": "wsgi", "gevent": "wsgi", "asgi": "asgi"}

APP = """
import json

def wsgi(environ, start_response):
    print("ASKED", flush=True)
    body = json.dumps([environ["REMOTE_ADDR"], environ["wsgi.url_scheme"]]).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]

async def asgi(scope, receive, send):
    assert scope["type"] == "http"
    print("ASKED", flush=True)
    body = json.dumps([scope["client"][0], scope["scheme"]]).encode()
    head = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    await send({"type": "http.response.body", "body": body})
"""
LINE = b"PROXY TCP4 203.0.113.9 192.0.2.1 4711 80\r\n"


def ask(listener: Listener, *, line: bytes = LINE, headers: str = "") -> bytes:
    """All that comes back."""
    family = socket.AF_UNIX if listener.path else socket.AF_INET
    with socket.socket(family) as client:
        client.settimeout(10)
        client.connect(str(listener.path) if listener.path else listener.sock.getsockname())
        client.sendall(line + f"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n".encode())
        data = b""
        try:
            while piece := client.recv(4096):
                data += piece
        except ConnectionResetError:
            return data
    return data


@pytest.fixture(params=CLASSES)
def start(request: pytest.FixtureRequest, worker: Spawn, run_dir: Any) -> Callable[..., WorkerProcess]:
    """A worker of each class with the protocol on."""
    (run_dir / "proxyapp.py").write_text(APP)

    def make(listener: Listener, **fields: Any) -> WorkerProcess:
        fields["options"] = {"proxy_protocol": True, "worker_class": request.param}
        return worker([listener], app=f"proxyapp:{CLASSES[request.param]}", backend="gunicorn", **fields)

    make.kind = request.param  # type: ignore[attr-defined]
    return make


def body(answer: bytes) -> list[str]:
    assert answer.startswith(b"HTTP/1.1 200"), answer
    found: list[str] = json.loads(answer.rpartition(b"\r\n\r\n")[2])
    return found


def test_a_trusted_proxy_tells_who_the_client_is(start: Callable[..., WorkerProcess], tcp: Make) -> None:
    listener = tcp()
    start(listener).ready()
    assert body(ask(listener)) == ["203.0.113.9", "http"]
    spoofed = "X-Forwarded-For: 198.51.100.7\r\nX-Forwarded-Proto: https\r\n"
    assert body(ask(listener, headers=spoofed)) == ["203.0.113.9", "http"], "the client himself is no proxy of ours"
    assert body(ask(listener, line=b"")) == ["127.0.0.1", "http"]


def test_nobody_else_does(start: Callable[..., WorkerProcess], tcp: Make) -> None:
    listener = tcp()
    process = start(listener, trusted_proxies=["192.0.2.7"])
    process.ready()
    answer = ask(listener)
    assert b"203.0.113.9" not in answer and not answer.startswith(b"HTTP/1.1 200"), answer
    assert "ASKED" not in process.output
    assert body(ask(listener, line=b"")) == ["127.0.0.1", "http"], "it serves on"


def test_behind_a_unix_socket(start: Callable[..., WorkerProcess], unix: Make) -> None:
    listener = unix()
    start(listener, trusted_proxies=["unix"]).ready()
    answer = ask(listener)
    if start.kind == "asgi":  # type: ignore[attr-defined]
        assert answer.startswith(b"HTTP/1.1 400"), "gunicorn's asgi workers take it by TCP only"
    else:
        assert body(answer) == ["203.0.113.9", "http"]


def test_unix_peers_who_are_not_trusted(start: Callable[..., WorkerProcess], unix: Make) -> None:
    said = start(unix(), trusted_proxies=["127.0.0.1"]).error()
    assert said["message"].startswith("options.proxy_protocol: gunicorn believes it of everybody behind a Unix socket")
