"""Requests and answers: bodies of all sizes and framings, HEAD, 304, errors, and the validators."""

from __future__ import annotations

from contextlib import suppress
from socket import MSG_PEEK

from trapeze.conformance.stage import Stage, expect, until
from trapeze.conformance.wire import Connection, head
from trapeze.conformance.worker import Worker

__all__ = ["answers", "bodies", "errors", "validators"]

MEGABYTE = b"0123456789abcdef" * 65536
"""What the app sends and what it is sent: 1 MiB."""


def answers(stage: Stage) -> None:
    """The first request waits for the first worker; the rest is read as RFC 9110 and 9112 say."""
    door = stage.door()
    early = door.connect()
    early.send(head("GET", "/", Connection="close"))
    stage.start(door)
    with early, stage.check("a request that came before the first worker is answered"):
        answer = early.answer()
        expect((answer.status, answer.body) == (200, b"hello"), f"it was answered with {answer}")
    with stage.check("HEAD has the headers of GET and no body"), door.connect() as client:
        answer = client.ask("HEAD", "/", Connection="close")
        expect(answer.status == 200, f"it was answered with {answer.status}")
        expect(client.is_closed(), "a body came, or the connection stayed open")
    with stage.check("HEAD says the length that GET says", "head_length"):
        said = []
        for method in ("HEAD", "GET"):
            with door.connect() as client:
                said.append(client.ask(method, "/", Connection="close").get("content-length"))
        expect(said[0] in (said[1], None), f"HEAD says {said[0]}, GET {said[1]}")
    with stage.check("nothing of an answer in pieces follows one to HEAD"), door.connect() as client:
        answer = client.ask("HEAD", "/stream")
        client.send(head("GET", "/", Connection="close"))
        data = b"" if answer.get("connection") == "close" else client.rest(2.0)
        expect(data.startswith(b"HTTP/1.") or not data, f"this comes where the next answer should begin: {data[:40]!r}")
    with stage.check("304 has no body"), door.connect() as client:
        answer = client.get("/not-modified", Connection="close")
        expect((answer.status, answer.get("etag")) == (304, '"1"'), f"it was answered with {answer}")
        expect(answer.get("transfer-encoding") is None, "it announces a chunked body")
        expect(client.is_closed(), "a body came, or the connection stayed open")
    with stage.check("status and repeated headers of the answer are the app's"), door.connect() as client:
        answer = client.get("/cookies", Connection="close")
        expect(answer.status == 418, f"the status is {answer.status}")
        expect(answer.all("set-cookie") == ["a=1", "b=2"], f"the cookies are {answer.all('set-cookie')}")
    with stage.check("HTTP/1.0 is answered and closed", "hostless"), door.connect() as client:
        client.send(b"GET / HTTP/1.0\r\n\r\n")
        answer = client.answer()
        expect((answer.status, answer.body) == (200, b"hello"), f"it was answered with {answer}")
        expect(client.is_closed(), "the connection stayed open")
    with stage.check("several requests on a kept connection, or a close that is announced"), door.connect() as client:
        _keep(client)


def _keep(client: Connection) -> None:
    for number in range(3):
        answer = client.get("/")
        expect((answer.status, answer.body) == (200, b"hello"), f"request {number + 1} was answered with {answer}")
        if answer.get("connection") == "close" or answer.version == "HTTP/1.0":
            expect(client.is_closed(), "it said that it closes, and did not")
            return


def bodies(stage: Stage) -> None:
    """Bodies both ways."""
    door = stage.door()
    stage.start(door)
    with stage.check("an empty body"), door.connect() as client:
        answer = client.get("/empty", Connection="close")
        expect((answer.status, answer.body) == (200, b""), f"it was answered with {answer}")
    with stage.check("POST without a body"), door.connect() as client:
        answer = client.ask("POST", "/echo", Content_Length="0", Connection="close")
        expect((answer.status, answer.body) == (200, b""), f"it was answered with {answer}")
    with stage.check("a request body of 1 MB"), door.connect() as client:
        answer = client.ask("POST", "/echo", MEGABYTE, Connection="close")
        expect((answer.status, answer.body == MEGABYTE) == (200, True), f"{answer.status}, {len(answer.body)} bytes")
    with stage.check("an answer of 1 MB without a length"), door.connect() as client:
        answer = client.get("/stream", Connection="close")
        expect((answer.status, answer.body == MEGABYTE) == (200, True), f"{answer.status}, {len(answer.body)} bytes")
    for name, promise, extension, trailer in (
        ("a request body in chunks", "chunked_request", b"", b""),
        ("chunks with extensions and a trailer", "chunk_extensions", b";ext=1", b"X-Sum: t\r\n"),
    ):
        with stage.check(name, promise), door.connect() as client:
            client.send(head("POST", "/echo", Transfer_Encoding="chunked", Connection="close"))
            for size in (1, 5000, 70_000):
                client.send(b"%x%b\r\n%b\r\n" % (size, extension, b"x" * size))
            client.send(b"0\r\n" + trailer + b"\r\n")
            answer = client.answer()
            expect((answer.status, len(answer.body)) == (200, 75_001), f"{answer.status}, {len(answer.body)} bytes")
    with stage.check("a body that comes in pieces"), door.connect() as client:
        client.send(head("POST", "/echo", Content_Length="10", Connection="close") + b"01234")
        client.send(b"56789")
        answer = client.answer()
        expect(answer.body == b"0123456789", f"it was answered with {answer}")
    with stage.check("Expect: 100-continue", "expect_continue"), door.connect() as client:
        client.send(head("POST", "/echo", Content_Length="5", Expect="100-continue", Connection="close"))
        client.sock.settimeout(1)
        with suppress(TimeoutError):
            client.sock.recv(1, MSG_PEEK)  # most say 100; a client sends its body after a while without it
        client.sock.settimeout(10)
        client.send(b"hello")
        expect(client.answer().body == b"hello", "the body was not read")


def errors(stage: Stage) -> None:
    """An exception in the app is an answer and a traceback, and the worker lives."""
    door = stage.door()
    worker = stage.start(door)
    with stage.check("an exception in the app is a 500"), door.connect() as client:
        answer = client.get("/raise", Connection="close")
        expect(answer.status == 500, f"it was answered with {answer.status}")
        expect(b"on purpose" not in answer.body, "the client is told about it")
    with stage.check("and a traceback on stderr"):
        until(lambda: "ValueError: raised on purpose" in worker.output, "the traceback")
        expect("Traceback (most recent call last)" in worker.output, f"only this: {worker.output[-200:]}")
    with stage.check("the worker goes on after it"), door.connect() as client:
        expect(client.get("/", Connection="close").status == 200, "the next request failed")
    with (
        stage.check("what is no request is refused, or its connection closed", "request_line"),
        door.connect() as client,
    ):
        client.send(b"\x16\x03\x01 this is no HTTP\r\n\r\n")
        answer_or_end = client.rest(5)
        expect(b" 200 " not in answer_or_end[:20], f"it was answered with {answer_or_end[:40]!r}")
    with stage.check("the worker goes on after that"), door.connect() as client:
        expect(client.get("/", Connection="close").status == 200, "the next request failed")


def validators(stage: Stage) -> None:
    """wsgiref.validate for WSGI, the specification's words for ASGI: nothing to say."""
    door = stage.door()
    worker = stage.start(door, app="_validated")
    for method, path, body in (
        ("GET", "/", b""), ("GET", "/facts?a=b", b""), ("POST", "/echo", b"body"), ("GET", "/stream", b""),
        ("HEAD", "/", b""), ("GET", "/not-modified", b""),
    ):  # fmt: skip
        with stage.check(f"the validator has nothing to say of {method} {path}"), door.connect() as client:
            answer = client.ask(method, path, body, Connection="close")
            expect(answer.status in (200, 304), _complaint(worker))
    with stage.check("nor after all of them"):
        expect("AssertionError" not in worker.output, _complaint(worker))
        expect("without being closed" not in worker.output, "the app's iterable was not closed")


def _complaint(worker: Worker) -> str:
    lines = worker.output.splitlines()
    at = next((number for number, line in enumerate(lines) if line.startswith("AssertionError")), len(lines) - 1)
    return " ".join(line.strip() for line in lines[max(at - 2, 0) : at + 1]) or "it failed and said nothing"
