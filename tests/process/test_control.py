"""The control door by raw sockets: what good and bad clients get, and that neither leaves anything."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.fakedoor import FakeDoor, Outcome, fake_door
from tests.support.wait import until
from trapeze import control, door
from trapeze.errors import BindError, ConfigError, Problem
from trapeze.spec import ControlSpec

HOST = b"Host: x\r\n"


@pytest.fixture(name="fake")
def _fake(run_dir: Path) -> Iterator[FakeDoor]:
    with fake_door(run_dir / "run") as made:
        yield made


def receive(sock: socket.socket) -> bytes:
    """Everything until the end."""
    data = b""
    while piece := sock.recv(65536):
        data += piece
    return data


def ask(fake: FakeDoor, request: bytes) -> bytes:
    """Send bytes as they are and return all that comes back."""
    with fake.connect() as sock:
        sock.sendall(request)
        return receive(sock)


def call(fake: FakeDoor, method: str, target: str) -> tuple[int, Any]:
    """One request on a connection of its own: status and JSON, or the lines of a stream."""
    answer = ask(fake, f"{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    if b"chunked" in head:
        return status(answer), [json.loads(line) for line in unchunk(body).splitlines()]
    return status(answer), json.loads(body)


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def unchunk(body: bytes) -> bytes:
    found = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        length = int(size, 16)
        found += rest[:length]
        body = rest[length + 2 :]
        if length == 0:
            assert body == b""
            return found
    raise AssertionError(f"the stream was cut off after {found!r}")


# -- reads ------------------------------------------------------------------------------------------------------------


def test_status(fake: FakeDoor) -> None:
    code, body = call(fake, "GET", "/status")

    assert code == 200
    assert (body["revision"], body["pid"], [each["name"] for each in body["services"]]) == (7, 4711, ["web", "redis"])


def test_curl_speaks_it(fake: FakeDoor) -> None:
    out = subprocess.run(
        ["curl", "--silent", "--unix-socket", str(fake.path), "http://x/status"], capture_output=True, check=True
    )

    assert json.loads(out.stdout)["pid"] == 4711


def test_root_lists_what_there_is(fake: FakeDoor) -> None:
    code, body = call(fake, "GET", "/")

    assert code == 200
    assert {"method": "GET", "path": "/status", "query": [], "doc": body["routes"][1]["doc"]} in body["routes"]


def test_config_is_masked_and_has_origins(fake: FakeDoor) -> None:
    code, body = call(fake, "GET", "/config")

    assert code == 200
    assert body["config"]["services"]["web"]["env"] == {"TOKEN": "***"}
    assert body["origins"]["services.web.workers"] == "flag --workers"


def test_events_since(fake: FakeDoor) -> None:
    fake.do(lambda: fake.supervisor.happens("web", "READY", "one"))
    fake.do(lambda: fake.supervisor.happens("web", "EXITED", "two"))

    code, body = call(fake, "GET", "/events?since=8")

    assert code == 200
    assert [line["why"] for line in body] == ["two"]


def test_events_wait_until_there_is_one(fake: FakeDoor) -> None:
    with fake.connect() as sock:
        sock.sendall(b"GET /events?since=7&wait=60 HTTP/1.0\r\n\r\n")
        until(lambda: fake.waiting == 1)
        fake.do(lambda: fake.supervisor.happens("web", "READY", "there"))
        answer = receive(sock)

    assert b"there" in answer


def test_events_follow_until_the_door_closes(fake: FakeDoor) -> None:
    with fake.connect() as sock:
        sock.sendall(b"GET /events?follow=1 HTTP/1.1\r\n" + HOST + b"\r\n")
        until(lambda: fake.waiting == 1)
        fake.do(lambda: fake.supervisor.happens("web", "READY", "one"))
        until(lambda: fake.waiting == 1)
        fake.close()
        answer = receive(sock)

    body = unchunk(answer.partition(b"\r\n\r\n")[2])
    assert [json.loads(line)["why"] for line in body.splitlines()] == ["one"]


def test_logs_are_the_last_lines_of_each_service(fake: FakeDoor) -> None:
    for number in range(5):
        fake.do(lambda number=number: fake.supervisor.prints("web", f"web {number}"))
    fake.do(lambda: fake.supervisor.prints("redis", "redis 0"))

    assert [line["text"] for line in call(fake, "GET", "/logs?lines=2")[1]] == ["web 3", "web 4", "redis 0"]
    assert [line["text"] for line in call(fake, "GET", "/logs?lines=9&service=redis")[1]] == ["redis 0"]
    assert call(fake, "GET", "/logs?service=nope")[0] == 404


def test_a_slow_reader_of_logs_loses_lines_and_is_told(fake: FakeDoor) -> None:
    """What it does not read waits in its subscription, which is bounded, and not in the transport."""
    with fake.connect() as sock:
        sock.sendall(b"GET /logs?follow=1&lines=0 HTTP/1.1\r\n" + HOST + b"\r\n")
        until(lambda: fake.do(lambda: len(fake.supervisor.journal._subscriptions)) == 1)

        def flood() -> None:
            for number in range(20_000):
                fake.supervisor.prints("web", f"{number:05} " + "x" * 200)

        fake.do(flood)
        buffered = fake.do(lambda: max(each._transport.get_write_buffer_size() for each in fake.door._connections))
        fake.do(fake.supervisor.journal.close)
        answer = receive_until(sock, b"0\r\n\r\n")

    lines = [json.loads(line) for line in unchunk(answer.partition(b"\r\n\r\n")[2]).splitlines()]
    assert buffered < 128 * 1024
    assert [line for line in lines if "dropped" in line["text"]]
    assert lines[-1]["text"].startswith("19999 ")


def receive_until(sock: socket.socket, end: bytes) -> bytes:
    data = b""
    while not data.endswith(end):
        piece = sock.recv(65536)
        assert piece, f"it ended after {data[-200:]!r}"
        data += piece
    return data


# -- writes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "asked"),
    [
        ("/reload", ("reload", None)),
        ("/services/web/reload", ("reload", ["web"])),
        ("/restart", ("restart", None, None)),
        ("/services/web/restart?process=9", ("restart", ["web"], 9)),
        ("/services/web/scale?count=4", ("scale", "web", 4, 0)),
        ("/services/web/scale?delta=+1", ("scale", "web", None, 1)),
        ("/services/web/scale?delta=-2", ("scale", "web", None, -2)),
        ("/services/web/start", ("start", ["web"])),
        ("/services/web/stop", ("stop", ["web"])),
        ("/services/web/signal?signal=USR1", ("signal", "web", 10, None)),
        ("/services/web/signal?signal=sighup&process=3", ("signal", "web", 1, 3)),
        ("/services/web/signal?signal=15", ("signal", "web", 15, None)),
        ("/shutdown?fast=1", ("shutdown", True)),
    ],
)
def test_a_write_is_one_verb(fake: FakeDoor, target: str, asked: tuple[Any, ...]) -> None:
    code, body = call(fake, "POST", target)

    assert (code, body["settled"]) == (202, False)
    assert fake.supervisor.asked == [asked]
    assert fake.supervisor.who == [f"uid {os.getuid()} pid {os.getpid()} (control)"]


def test_wait_answers_when_it_is_done(fake: FakeDoor) -> None:
    fake.supervisor.outcome = Outcome(message="web: 1 of 4 ready")
    with fake.connect() as sock:
        sock.sendall(b"POST /services/web/reload?wait=60 HTTP/1.0\r\n\r\n")
        until(lambda: fake.waiting == 1)

        def finish() -> None:
            fake.supervisor.outcome = Outcome(done=True, message="web: generation 2, 4 of 4 ready")
            fake.supervisor.happens("web", "RUNNING", "4 of 4 ready")

        fake.do(finish)
        answer = receive(sock)

    assert status(answer) == 200
    assert json.loads(answer.partition(b"\r\n\r\n")[2]) == {
        "revision": 8,
        "services": {"web": {"generation": 2}},
        "settled": True,
        "message": "web: generation 2, 4 of 4 ready",
    }


def test_wait_says_that_it_was_rolled_back(fake: FakeDoor) -> None:
    fake.supervisor.outcome = Outcome(failed=True, code="rolled_back", message="web: back to 1", output=["Boom"])

    code, body = call(fake, "POST", "/services/web/reload?wait=60")

    assert code == 409
    assert body == {"code": "rolled_back", "message": "web: back to 1", "hint": "", "output": ["Boom"], "problems": []}


def test_wait_takes_no_longer_than_said(fake: FakeDoor) -> None:
    fake.supervisor.outcome = Outcome(message="1 of 4 ready")

    code, body = call(fake, "POST", "/reload?wait=0.01")

    assert (code, body["code"], body["message"]) == (504, "timeout", "not done after 0.01 s: 1 of 4 ready")


def test_progress_is_a_stream_that_ends_with_the_answer(fake: FakeDoor) -> None:
    fake.supervisor.outcome = Outcome()

    def script() -> None:
        fake.supervisor.happens("redis", "EXITED", "not of this order")
        fake.supervisor.happens("web", "ROLLING", "0 of 4 replaced")
        fake.supervisor.outcome = Outcome(failed=True, code="rolled_back", message="web: back to 1")

    fake.supervisor.script = script
    code, lines = call(fake, "POST", "/services/web/reload?wait=60&progress=1")

    assert code == 200
    assert [line["transition"]["why"] for line in lines[:-1]] == ["0 of 4 replaced"]
    assert (lines[-1]["status"], lines[-1]["error"]["code"]) == (409, "rolled_back")


def test_a_client_that_leaves_ends_its_wait(fake: FakeDoor) -> None:
    fake.supervisor.outcome = Outcome()
    with fake.connect() as sock:
        sock.sendall(b"POST /reload?wait=60 HTTP/1.1\r\n" + HOST + b"\r\n")
        until(lambda: fake.waiting == 1)
    until(lambda: fake.waiting == 0 and fake.clients == 0)

    assert fake.supervisor.asked == [("reload", None)]


def test_a_client_that_only_stops_writing_gets_its_answer(fake: FakeDoor) -> None:
    fake.supervisor.outcome = Outcome()
    with fake.connect() as sock:
        sock.sendall(b"POST /reload?wait=60 HTTP/1.1\r\n" + HOST + b"\r\n")
        until(lambda: fake.waiting == 1)
        sock.shutdown(socket.SHUT_WR)
        fake.supervisor.outcome = Outcome(done=True, message="done")
        fake.do(lambda: fake.supervisor.happens("web", "RUNNING", ""))
        answer = receive(sock)

    assert status(answer) == 200


def test_those_who_wait_are_told_that_the_door_closes(fake: FakeDoor) -> None:
    fake.supervisor.outcome = Outcome()
    with fake.connect() as sock:
        sock.sendall(b"POST /reload?wait=60 HTTP/1.1\r\n" + HOST + b"\r\n")
        until(lambda: fake.waiting == 1)
        fake.close()
        answer = receive(sock)

    assert status(answer) == 503
    assert b'"stopping"' in answer


def test_shutdown_stays_until_the_end(fake: FakeDoor) -> None:
    with fake.connect() as sock:
        sock.sendall(b"POST /shutdown?wait=60 HTTP/1.1\r\n" + HOST + b"\r\n")
        until(lambda: fake.waiting == 1)
        fake.close()
        answer = receive(sock)

    assert [json.loads(line)["answer"]["message"] for line in unchunk(answer.partition(b"\r\n\r\n")[2]).splitlines()] == [
        "stopping"
    ]


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "target", "code", "word", "message"),
    [
        ("GET", "/nope", 404, "unknown", "there is no /nope here"),
        ("GET", "/status/", 404, "unknown", "there is no /status/ here"),
        ("POST", "/services//reload", 404, "unknown", "there is no /services//reload here"),
        ("POST", "/services/api/reload", 404, "unknown", "no service 'api'"),
        ("POST", "/status", 405, "usage", "/status takes GET, HEAD, not POST"),
        ("GET", "/reload", 405, "usage", "/reload takes POST, not GET"),
        ("GET", "/status?x=1", 400, "usage", '/status: unknown query parameter "x"'),
        ("POST", "/reload?wait=1&wait=2", 400, "usage", '/reload: query parameter "wait" was given twice'),
        ("POST", "/reload?wait=soon", 400, "usage", None),
        ("POST", "/reload?wait=-1", 400, "usage", None),
        ("POST", "/reload?wait=nan", 400, "usage", None),
        ("POST", "/services/web/scale", 400, "usage", "scale takes either count=N or delta=N"),
        ("POST", "/services/web/scale?count=1&delta=1", 400, "usage", "scale takes either count=N or delta=N"),
        ("POST", "/services/web/scale?count=-1", 400, "usage", None),
        ("POST", "/services/web/signal", 400, "usage", 'there is no signal ""'),
        ("POST", "/services/web/signal?signal=NOPE", 400, "usage", 'there is no signal "NOPE"'),
        ("POST", "/services/web/signal?signal=_DFL", 400, "usage", 'there is no signal "_DFL"'),
        ("POST", "/services/web/signal?signal=65", 400, "usage", 'there is no signal "65"'),
        ("POST", "/services/web/signal?signal=0", 400, "usage", 'there is no signal "0"'),
    ],
)
def test_refused(fake: FakeDoor, method: str, target: str, code: int, word: str, message: str | None) -> None:
    found, body = call(fake, method, target)

    assert (found, body["code"]) == (code, word)
    assert message is None or body["message"] == message
    assert sorted(body) == ["code", "hint", "message", "output", "problems"]
    assert fake.supervisor.asked == []


def test_config_problems_are_listed(fake: FakeDoor) -> None:
    fake.supervisor.error = ConfigError([Problem("services.web.worker", "unknown key", 'did you mean "workers"?', "f")])

    code, body = call(fake, "POST", "/reload?wait=60")

    assert (code, body["code"]) == (422, "config")
    assert body["problems"] == [
        {"path": "services.web.worker", "reason": "unknown key", "hint": 'did you mean "workers"?', "origin": "f"}
    ]


def test_a_bug_is_logged_and_said(fake: FakeDoor, caplog: pytest.LogCaptureFixture) -> None:
    fake.supervisor.error = ZeroDivisionError("oops")

    code, body = call(fake, "POST", "/services/web/stop")

    assert (code, body["code"]) == (500, "bug")
    assert "ZeroDivisionError: oops" in caplog.text


def test_a_bind_error_is_no_bug(fake: FakeDoor) -> None:
    fake.supervisor.error = BindError("cannot listen on :80", hint="be root")

    code, body = call(fake, "POST", "/reload")

    assert (code, body["code"], body["hint"]) == (422, "bind", "be root")


@pytest.mark.root
@pytest.mark.skipif(os.getuid() != 0, reason="needs two users")
@pytest.mark.parametrize(("spec", "code"), [(ControlSpec(), 403), (ControlSpec(mode="0660"), 200)])
def test_strangers(run_dir: Path, spec: ControlSpec, code: int) -> None:
    """Whom the mode of the socket let in by accident is refused; whom [control] lets in is not."""
    run_dir.chmod(0o755)
    with fake_door(run_dir / "run", spec=spec) as fake:
        fake.path.parent.chmod(0o755)
        fake.path.chmod(0o666)
        asked = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--unix-socket", str(fake.path), "http://x/status"]
        out = subprocess.run(
            asked, user=65534, group=65534, extra_groups=[], capture_output=True, text=True, check=True, cwd="/"
        )

    assert int(out.stdout) == code


# -- bad clients ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (b"GARBAGE\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET /status HTTP/1.1\r\n\r\n", 400),  # no Host
        (b"GET /status HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400),
        (b"GET /status HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
        (b"GET /status HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"POST /reload HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"GET /status HTTP/1.1\r\nHost: x\r\nX: " + b"x" * door.HEADER_LIMIT + b"\r\n\r\n", 431),
        (b"GET /" + b"x" * 2 * door.HEADER_LIMIT, 431),
        (b"POST /reload HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
    ],
)
def test_malformed_requests_are_refused_and_closed(fake: FakeDoor, request_: bytes, code: int) -> None:
    answer = ask(fake, request_)

    assert status(answer) == code
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "usage"
    assert fake.supervisor.asked == []
    until(lambda: fake.clients == 0)


def test_a_large_body_is_refused(fake: FakeDoor) -> None:
    head = b"POST /reload HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % (door.BODY_LIMIT + 1)
    with fake.connect() as sock:
        sock.sendall(head + b"x" * (door.BODY_LIMIT + 1))
        answer = receive(sock)

    assert status(answer) == 413
    assert fake.supervisor.asked == []


def test_a_small_body_is_read_over(fake: FakeDoor) -> None:
    answer = ask(
        fake,
        b"POST /reload HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\nExpect: 100-continue\r\n\r\nhello"
        b"GET /status HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n",
    )

    assert answer.count(b"HTTP/1.1 202") == 1
    assert answer.count(b"HTTP/1.1 200") == 1


def test_many_requests_at_once_are_answered_in_order(fake: FakeDoor) -> None:
    targets = [f"/services/web/scale?count={number}" for number in range(200)]
    requests = b"".join(f"POST {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode() for target in targets)

    answer = ask(fake, requests + b"GET / HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n")

    assert answer.count(b"HTTP/1.1 202") == 200
    assert [asked[2] for asked in fake.supervisor.asked] == list(range(200))


def test_one_who_sends_ahead_without_end_is_made_to_wait(fake: FakeDoor) -> None:
    """While an answer is awaited, no more than a bounded amount of what follows is taken in."""
    fake.supervisor.outcome = Outcome()
    with fake.connect() as sock:
        sock.sendall(b"POST /reload?wait=60 HTTP/1.1\r\n" + HOST + b"\r\n")
        until(lambda: fake.waiting == 1)
        sock.setblocking(False)
        sent = 0
        while sent < 64 * 1024 * 1024 and (can_send(sock) or not paused(fake)):
            if can_send(sock):
                sent += sock.send(b"x" * 65536)

    until(lambda: fake.clients == 0)
    assert sent < 2 * 1024 * 1024


def can_send(sock: socket.socket) -> bool:
    return bool(select.select([], [sock], [], 0)[1])


def paused(fake: FakeDoor) -> bool:
    return fake.do(lambda: any(not each._transport.is_reading() for each in fake.door._connections))


def test_head(fake: FakeDoor) -> None:
    answer = ask(fake, b"HEAD /status HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")

    assert status(answer) == 200
    assert b"content-length: " in head
    assert body == b""


def test_a_connection_is_kept(fake: FakeDoor) -> None:
    with fake.connect() as sock:
        for _ in range(3):
            sock.sendall(b"GET /status HTTP/1.1\r\n" + HOST + b"\r\n")
            answer = receive_until(sock, b"}\n")

            assert status(answer) == 200


def test_too_many_clients(fake: FakeDoor) -> None:
    clients = [fake.connect() for _ in range(control.CLIENTS)]
    until(lambda: fake.clients == control.CLIENTS)
    with fake.connect() as sock:
        answer = receive(sock)
    for client in clients:
        client.close()
    until(lambda: fake.clients == 0)

    assert status(answer) == 503
    assert call(fake, "GET", "/status")[0] == 200


@pytest.mark.parametrize("start", [b"", b"GET /sta", b"POST /reload HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nx"])
def test_an_idle_connection_is_closed(fake: FakeDoor, monkeypatch: pytest.MonkeyPatch, start: bytes) -> None:
    monkeypatch.setattr(door, "IDLE_TIMEOUT", 0.05)

    assert ask(fake, start) == b""


def test_a_client_that_reads_nothing_does_not_hold_up_the_end(fake: FakeDoor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "_PATIENCE", 0.05)
    with fake.connect() as sock:
        sock.sendall(b"GET /logs?follow=1 HTTP/1.1\r\n" + HOST + b"\r\n")
        until(lambda: fake.do(lambda: len(fake.supervisor.journal._subscriptions)) == 1)

        def flood() -> None:
            for _ in range(5_000):
                fake.supervisor.prints("web", "x" * 500)

        fake.do(flood)
        fake.close()
        assert fake.clients == 0


def test_nothing_is_left_of_many_clients(fake: FakeDoor) -> None:
    """Some ask, some leave in the middle; the audit counts descriptors afterwards."""
    before = len(os.listdir("/proc/self/fd"))
    for number in range(100):
        with fake.connect() as sock:
            sock.sendall([b"GET /status HTTP/1.1\r\n" + HOST + b"\r\n", b"GET /", b"", b"junk\r\n\r\n"][number % 4])
    until(lambda: fake.clients == 0)

    assert len(os.listdir("/proc/self/fd")) == before
