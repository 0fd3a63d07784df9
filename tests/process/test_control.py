"""The control door: what each request gets, and how waiting ends."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.fakedoor import FakeDoor, Outcome, fake_door
from tests.support.rawhttp import HOST, call, receive, receive_until, status, unchunk
from tests.support.wait import until
from trapeze.errors import BindError, ConfigError, Problem
from trapeze.spec import ControlSpec


@pytest.fixture(name="fake")
def _fake(run_dir: Path) -> Iterator[FakeDoor]:
    with fake_door(run_dir / "run") as made:
        yield made


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
    def script() -> None:
        for number in range(5):
            fake.supervisor.prints("web", f"web {number}")
        fake.supervisor.prints("redis", "redis 0")

    fake.do(script)

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
    assert lines[0]["ticket"]["services"] == {"web": 2}
    assert [line["transition"]["why"] for line in lines[1:-1]] == ["0 of 4 replaced"]
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

    lines = unchunk(answer.partition(b"\r\n\r\n")[2]).splitlines()
    assert [json.loads(line)["answer"]["message"] for line in lines] == ["stopping"]


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
        asked = [
            "curl",
            "-s",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "--unix-socket",
            str(fake.path),
            "http://x/status",
        ]
        out = subprocess.run(
            asked, user=65534, group=65534, extra_groups=[], capture_output=True, text=True, check=True, cwd="/"
        )

    assert int(out.stdout) == code
