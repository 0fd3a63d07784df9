"""Starting and stopping: ready only when it accepts, gone only when everything is answered."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import struct
import time

from trapeze.conformance.stage import Stage, expect, until
from trapeze.conformance.wire import head
from trapeze.conformance.worker import BACKLOG, GRACE, Door, Failure

__all__ = ["health", "kept", "leaving", "lifespan", "log", "queue", "streams", "watched"]


def leaving(stage: Stage) -> None:
    """Requests under way, half ones, and the socket that stays behind."""
    door = stage.door()
    worker = stage.start(door)
    with stage.check("the socket is left as it was"):
        _expect_untouched(door)
    with stage.check("a request under way at a stop is answered", "in_flight"), door.connect() as client:
        client.send(head("GET", "/gate"))
        worker.entered()
        worker.stop()
        worker.let_go()
        answer = client.answer()
        expect((answer.status, answer.body) == (200, b"passed"), f"it was answered with {answer}")
        expect(client.is_closed(), "the connection stays open")
    with stage.check("it exits with 0 after SIGTERM"):
        status = worker.wait()
        expect(status == 0, f"it exited with {status}")
    with stage.check("the socket is left as it was, and open"):
        _expect_untouched(door)
    for signum in (signal.SIGINT, signal.SIGQUIT):
        other = stage.start(stage.door())
        with stage.check(f"{signum.name} ends it at once, with 0"):
            other.process.send_signal(signum)
            status = other.wait()
            expect(status == 0, f"it exited with {status}")


def _expect_untouched(door: Door) -> None:
    """O_NONBLOCK is shared by all who hold the socket; the last caller of listen() sets everybody's backlog."""
    expect(os.get_blocking(door.fd) is False, "O_NONBLOCK was cleared: siblings would stand still in accept()")
    expect(door.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY), "TCP_NODELAY was cleared")
    expect(door.sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR), "SO_REUSEADDR was cleared")
    expect(door.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN), "the socket was shut down")
    info = door.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    backlog = struct.unpack_from("I", info, 8 + 4 * 5)[0]
    expect(backlog == BACKLOG, f"the backlog is {backlog}, not {BACKLOG}")


def kept(stage: Stage) -> None:
    """Connections that are idle, kept or half used when it leaves; and those that are not to be kept."""
    _none(stage)
    door = stage.door()
    worker = stage.start(door)
    with stage.check("a connection is kept, or its end announced"), door.connect() as first:
        answer = first.get("/")
        if answer.get("connection") == "close" or answer.version == "HTTP/1.0":
            expect(first.is_closed(), "it said that it closes, and did not")
            return  # it keeps none
    with (
        stage.check("a kept connection stays for drain_grace, and its last answer says close", "kept"),
        door.connect() as idle,
        door.connect() as used,
    ):
        expect(idle.get("/").status == used.get("/").status == 200, "no answers")
        worker.stop()
        answer = used.get("/")
        expect(answer.status == 200, f"a request during the grace was answered with {answer.status}")
        expect(answer.get("connection") == "close", "the answer does not say Connection: close")
        expect(used.is_closed(), "the connection stays open after it")
        expect(idle.is_closed(), "an idle connection stays open")
    with stage.check("it exits with 0 then"):
        status = worker.wait()
        expect(status == 0, f"it exited with {status}")
    _half(stage)


def _none(stage: Stage) -> None:
    door = stage.door()
    try:
        stage.start(door, keepalive=0)
    except Failure as failure:
        if "keepalive" in str(failure):
            return  # it says that it cannot do that
        raise
    with stage.check("keepalive = 0 ends a connection after its answer, not before"), door.connect() as client:
        select.select([], [], [], 0.2)  # longer than it takes to see that nothing has come
        answer = client.get("/")
        expect(answer.status == 200, f"it was answered with {answer.status}")
        expect(client.is_closed(), "the connection stays open")


def _half(stage: Stage) -> None:
    door = stage.door()
    worker = stage.start(door)
    with stage.check("half a request is waited for", "half_request"), door.connect() as client:
        expect(client.get("/").status == 200, "no answer")
        request = head("GET", "/")
        client.send(request[:20])
        select.select([], [], [], 0.05)  # the worker must have seen it
        worker.stop()
        select.select([client.sock], [], [], 2 * GRACE)
        client.send(request[20:])
        answer = client.answer()
        expect(answer.status == 200, f"it was answered with {answer.status}")


def queue(stage: Stage) -> None:
    """Connections that were accepted and said nothing yet, and those in the queue: whoever has them answers."""
    door = stage.door()
    worker = stage.start(door)
    with (
        stage.check("a connection that has said nothing yet is answered by it or by a sibling", "unread"),
        door.connect() as client,
    ):
        select.select([], [], [], 0.1)  # most accept it meanwhile
        worker.stop()
        client.send(head("GET", "/", Connection="close"))
        stage.start(door)
        answer = client.answer()
        expect((answer.status, answer.body) == (200, b"hello"), f"it was answered with {answer}")
    with stage.check("and it exits with 0"):
        status = worker.wait()
        expect(status == 0, f"it exited with {status}")


def lifespan(stage: Stage) -> None:
    """READY says that the start-up is over; one that fails is a start that fails."""
    door = stage.door()
    if not stage.asgi:
        with stage.check("READY comes once it accepts"), door.connect() as client:
            stage.start(door)
            client.send(head("GET", "/", Connection="close"))
            expect(client.answer().status == 200, "no answer")
        return
    worker = stage.spawn(door, env={"LIFESPAN": "gate"})
    with stage.check("READY waits for the lifespan's start-up", "lifespan"):
        worker.entered()
        expect(not select.select([worker.notify], [], [], 0.1)[0], "it said READY before")
        worker.let_go()
        worker.ready()
    with stage.check("what the start-up left in the state is in each scope", "lifespan"), door.connect() as client:
        state = json.loads(client.get("/facts", Connection="close").body)["state"]
        expect(state == {"answer": 42}, f"the state is {state}")
    with stage.check("the lifespan's shutdown is run", "lifespan"):
        worker.stop()
        expect(worker.wait() == 0, "it did not exit with 0")
        expect("lifespan.shutdown was run" in worker.output, "it was not")
    with stage.check("a start-up that fails is told with its reason, and the exit status is 3", "lifespan"):
        said = stage.spawn(stage.door(), env={"LIFESPAN": "fail"}).error()
        expect("the database is away" in said["message"], f"it said {said['message']!r}")
    with stage.check("an app without a lifespan is served"), door.connect() as client:
        stage.start(door, env={"LIFESPAN": "unsupported"})
        expect(client.get("/", Connection="close").status == 200, "no answer")


def health(stage: Stage) -> None:
    """Asked inside, before it accepts."""
    wanted: dict[str, object] = {"path": "/", "host": "localhost", "headers": {}, "status": None, "timeout": 5}
    with stage.check("an app that is healthy"):
        stage.start(stage.door(), health=wanted)
    with stage.check("one that is not cannot start, and the reason is told"):
        said = stage.spawn(stage.door(), health={**wanted, "path": "/cookies"}).error()
        expect("418" in said["message"], f"it said {said['message']!r}")


def watched(stage: Stage) -> None:
    """The main loop says that it goes round; what is counted has a limit."""
    door = stage.door()
    worker = stage.start(door, heartbeat_timeout=2.0, max_requests=3)
    with stage.check("its main loop beats while it is idle", "heartbeat"):
        first = until(lambda: worker.reading().beat, "a beat")
        until(lambda: worker.reading().beat > first + 0.5, "another beat")
        gap = worker.reading().gap
        expect(gap < 1.5, f"{gap:.1f} s passed between two beats; heartbeat_timeout was 2 s")
    with stage.check("max_requests"):
        for _ in range(5):
            with door.connect() as client:
                expect(client.get("/", Connection="close").status == 200, "no answer")
        said = worker.message()
        expect("requests" in said.get("X_TRAPEZE_RECYCLE", ""), f"it said {said}")


LINE = re.compile(
    r'127\.0\.0\.1 - - \[[^]]+\] "GET /echo\?a=b HTTP/1\.1" 200 0 "-" "conformance" \d+\.\d{4}', re.MULTILINE
)


def log(stage: Stage) -> None:
    """One line per request, the same for every backend."""
    door = stage.door()
    worker = stage.start(door, access_log=True)
    with stage.check("the access log"):
        with door.connect() as client:
            expect(client.get("/echo?a=b", User_Agent="conformance", Connection="close").status == 200, "no answer")
        until(lambda: "/echo" in worker.output, "its line")
        lines = [line for line in worker.output.splitlines() if "/echo" in line]
        expect(len(lines) == 1 and LINE.fullmatch(lines[0]), f"it is {lines}")


def streams(stage: Stage) -> None:
    """A stream without an end does not hold a worker that leaves."""
    door = stage.door()
    worker = stage.start(door)
    with stage.check("server-sent events are ended in order at drain_grace", "endless"), door.connect() as client:
        client.send(head("GET", "/events"))
        until(lambda: b"tick" in _some(client.sock), "the first event")
        began = time.monotonic()
        worker.stop()
        rest = client.rest(5)
        status = worker.wait()
        took = time.monotonic() - began
        expect(status == 0, f"it exited with {status}")
        expect(took < 5, f"it took {took:.1f} s")
        whole = rest == b"" or rest.endswith((b"\n\n", b"0\r\n\r\n", b"\n\n\r\n"))
        expect(whole, f"the stream was cut: {rest[-20:]!r}")


def _some(sock: socket.socket) -> bytes:
    try:
        return sock.recv(65536)
    except TimeoutError:
        raise Failure("no event came") from None
