"""hypercorn's HTTP/2: what is under way when a worker leaves, and when a connection has had its number of requests."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import time
from collections.abc import Callable
from typing import Any

import hpack
import pytest
from hyperframe.frame import (
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from tests.support.server import Listener
from tests.support.wait import until
from tests.support.workerkit import PATIENCE, Connection, WorkerProcess

Make = Callable[..., Any]
Spawn = Callable[..., WorkerProcess]
Connect = Callable[[Listener], Connection]

EVERY = 2**31 - 1


class Client:
    """HTTP/2 by prior knowledge, frame by frame: the library h2 takes no answer any more after a GOAWAY."""

    def __init__(self, connection: Connection) -> None:
        self.sock = connection.sock
        self.stream = connection.stream
        self.sock.settimeout(PATIENCE)
        self.encoder, self.decoder = hpack.Encoder(), hpack.Decoder()
        self.status: dict[int, str] = {}
        self.bodies: dict[int, bytes] = {}
        self.ended: set[int] = set()
        self.reset: set[int] = set()
        self.goaways: list[int] = []
        self.last = -1
        window = WindowUpdateFrame(0, window_increment=2**30)
        self.sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SettingsFrame(0).serialize() + window.serialize())

    def ask(self, path: str) -> int:
        """Send a request; returns the number of its stream."""
        self.last += 2
        fields = [(":method", "GET"), (":path", path), (":scheme", "http"), (":authority", "example.com")]
        frame = HeadersFrame(self.last, self.encoder.encode(fields), flags=["END_HEADERS", "END_STREAM"])
        self.sock.sendall(frame.serialize())
        return self.last

    def read(self) -> bool:
        """Take one frame; False at the end of the connection."""
        head = self.stream.read(9)
        if len(head) < 9:
            return False
        frame, length = Frame.parse_frame_header(memoryview(head))
        frame.parse_body(memoryview(self.stream.read(length)))
        if isinstance(frame, GoAwayFrame):
            self.goaways.append(frame.last_stream_id)
        elif isinstance(frame, RstStreamFrame):
            self.reset.add(frame.stream_id)
        elif isinstance(frame, HeadersFrame):
            self.status[frame.stream_id] = str(dict(self.decoder.decode(frame.data))[":status"])  # type: ignore[index]
        elif isinstance(frame, DataFrame):
            self.bodies[frame.stream_id] = self.bodies.get(frame.stream_id, b"") + frame.data
        elif isinstance(frame, SettingsFrame) and "ACK" not in frame.flags:
            self.sock.sendall(SettingsFrame(0, flags=["ACK"]).serialize())
        if "END_STREAM" in frame.flags:
            self.ended.add(frame.stream_id)
        return True

    def answer(self, stream: int) -> tuple[str, bytes]:
        """Wait for the whole answer of a stream."""
        while stream not in self.ended:
            assert stream not in self.reset, "the stream was reset"
            assert self.read(), "the connection has ended"
        return self.status[stream], self.bodies.get(stream, b"")

    def rest(self) -> None:
        """Everything up to the end."""
        while self.read():
            continue


@pytest.fixture
def start(worker: Spawn, tcp: Make, connect: Connect) -> Callable[..., tuple[WorkerProcess, Client]]:
    """A worker, and a client of it."""

    def made(interface: str = "asgi", **fields: Any) -> tuple[WorkerProcess, Client]:
        listener = tcp()
        process = worker([listener], app=f"workerapp:{interface}", backend="hypercorn", **fields)
        process.ready()
        return process, Client(connect(listener))

    return made


@pytest.mark.parametrize("interface", ["asgi", "wsgi"])
def test_it_is_spoken(interface: str, start: Make) -> None:
    process, client = start(interface, access_log=True)
    status, body = client.answer(client.ask("/environ?a=b"))
    facts = json.loads(body)
    assert status == "200"
    if interface == "asgi":
        assert (facts["http_version"], facts["path"]) == ("2", "/environ")
    else:
        assert (facts["SERVER_PROTOCOL"], facts["HTTP_HOST"], facts["QUERY_STRING"]) == ("HTTP/2", "example.com", "a=b")
    until(lambda: '"GET /environ?a=b HTTP/2" 200' in process.output, what="its line in the log")


def test_what_is_under_way_is_finished_and_what_still_comes_is_served(start: Make) -> None:
    """Stock hypercorn resets the second one."""
    process, client = start(drain_grace=1.0)
    first = client.ask("/gate")
    process.entered()
    process.stop()
    second = client.ask("/")
    assert client.answer(second) == ("200", b"hello")
    process.let_go()
    assert client.answer(first) == ("200", b"hello")
    client.rest()
    assert client.goaways[0] == EVERY, "first it is only announced"
    assert client.goaways[-1] == 3, "at the end it is said what was served"
    assert process.wait() == 0, process.output


def test_an_idle_connection_is_told_at_once_and_closed_at_the_grace(start: Make) -> None:
    process, client = start(drain_grace=0.5)
    client.answer(client.ask("/"))
    before = time.monotonic()
    process.stop()
    while not client.goaways:
        assert client.read()
    assert client.goaways == [EVERY]
    late = client.ask("/")
    assert client.answer(late) == ("200", b"hello"), "it was sent before the client had heard of it"
    client.rest()
    assert time.monotonic() - before >= 0.45
    assert process.wait() == 0, process.output


def test_a_connection_that_has_had_its_number_of_requests_loses_none(start: Make) -> None:
    """Stock hypercorn loses the answer of the last one."""
    process, client = start(options={"keep_alive_max_requests": 2})
    streams = [client.ask("/") for _ in range(4)]
    for stream in streams:
        assert client.answer(stream) == ("200", b"hello")
    while not client.goaways:
        assert client.read()
    process.stop()
    assert process.wait() == 0, process.output


def test_upgrade_of_http_1(worker: Spawn, tcp: Make, connect: Connect) -> None:
    """h2c by an Upgrade header, as curl --http2 does it."""
    listener = tcp()
    worker([listener], app="workerapp:asgi", backend="hypercorn").ready()
    client = connect(listener)
    client.send("/", Connection="Upgrade, HTTP2-Settings", Upgrade="h2c", HTTP2_Settings="AAMAAABkAAQAAP__")
    assert b"101" in client.stream.readline()


def test_tls_is_spoken_where_it_has_a_certificate(worker: Spawn, tcp: Make, run_dir: Any) -> None:
    """Its own setting: most have a proxy do it."""
    cert, key = run_dir / "cert.pem", run_dir / "key.pem"
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days"]
    words += ["1", "-subj", "/CN=localhost", "-keyout", str(key), "-out", str(cert)]
    subprocess.run(words, check=True, capture_output=True)
    listener = tcp()
    options = {"certfile": str(cert), "keyfile": str(key)}
    process = worker([listener], app="workerapp:asgi", backend="hypercorn", options=options)
    process.ready()
    context = ssl.create_default_context(cafile=str(cert))
    context.check_hostname = False
    sock = socket.create_connection(listener.sock.getsockname(), PATIENCE)
    with sock, context.wrap_socket(sock) as secure:
        secure.sendall(b"GET /environ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = b""
        while piece := secure.recv(65536):
            answer += piece
    assert b'"scheme": "https"' in answer
    process.stop()
    assert process.wait() == 0, process.output
