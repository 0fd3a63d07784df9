"""The scripts that measure: the load client counts what is lost, and the script of deploys runs. No timings."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest
from trapeze_bench import procfs
from trapeze_bench.family import processor_time
from trapeze_bench.loads import loaded
from trapeze_bench.openloop import Client, Plan
from trapeze_bench.targets import free_port

from tests.support.server import ROOT
from tests.support.wait import until

ANSWERS = {
    "": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "closed, unanswered": b"",
    "closed, in the answer": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no",
    "status 503": b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n",
    "bytes behind the answer": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1",
}


class Server:
    """Answers each connection once, as told. The end of the connection comes with the answer, in one segment: whoever
    has read the answer can know."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.served = 0
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=500)
        self.port = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self) -> None:
        """Until the listener is shut down."""
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(1 << 16)
                self.served += 1
                connection.sendall(self.answer, socket.MSG_MORE)

    def close(self) -> None:
        """Wake it, too."""
        self.listener.shutdown(socket.SHUT_RDWR)
        self.thread.join()
        self.listener.close()


@pytest.mark.parametrize("kept", [0, 4])
@pytest.mark.parametrize("why", ANSWERS)
def test_what_is_lost_is_counted(why: str, kept: int) -> None:
    server = Server(ANSWERS[why])
    try:
        with loaded(Plan(server.port, 200.0, kept)) as load:
            until(lambda: server.served >= 20, what="twenty requests")
            result = load.stop()
    finally:
        server.close()

    assert len(result.due) + len(result.lost) == server.served
    assert {found for _, found in result.lost} == ({why} if why else set())
    assert bool(result.due) == (why == "")


def test_nobody_listens() -> None:
    client = Client(Plan(free_port(), 200.0))
    thread = threading.Thread(target=lambda: asyncio.run(client.run()))
    thread.start()
    try:
        until(lambda: len(client.lost) >= 3, what="three requests")
    finally:
        client.stopping = True
        thread.join()

    assert client.due == []
    assert {why for _, why in client.lost} == {"ECONNREFUSED, connecting"}


def test_kept_connections_are_never_more_than_told() -> None:
    """A server that takes connections and stands still: requests wait, are not answered, and open nothing more."""
    with socket.create_server(("127.0.0.1", 0), backlog=500) as listener:
        client = Client(Plan(listener.getsockname()[1], 500.0, kept=4))
        thread = threading.Thread(target=lambda: asyncio.run(client.run()))
        thread.start()
        try:
            until(lambda: len(client.waiting) >= 50, what="fifty requests that wait")
            assert len(client.wires) + len(client.opening) == 4
        finally:
            client.stopping = True
            client.waiting.clear()
            for wire in list(client.wires):
                wire.due = 0.0
            thread.join()


@pytest.fixture
def asking() -> Iterator[Callable[[Plan], Client]]:
    """Start a client in a thread of its own; it is told to stop at the end."""
    started: list[tuple[Client, threading.Thread]] = []

    def start(plan: Plan) -> Client:
        client = Client(plan)
        thread = threading.Thread(target=lambda: asyncio.run(client.run()))
        thread.start()
        started.append((client, thread))
        return client

    yield start
    for client, thread in started:
        client.stopping = True
        thread.join()


def test_a_connection_that_the_server_has_closed_is_not_used_again(asking: Callable[[Plan], Client]) -> None:
    """Not even by one that was waiting for it, and is sent the moment that the answer is there."""
    with socket.create_server(("127.0.0.1", 0), backlog=500) as listener:
        client = asking(Plan(listener.getsockname()[1], 500.0, kept=1))
        for number in range(20):
            connection, _ = listener.accept()
            with connection:
                connection.recv(1 << 16)
                if number == 0:
                    until(lambda: len(client.waiting) >= 20, what="twenty requests that wait")
                connection.sendall(ANSWERS[""], socket.MSG_MORE)  # goes out with the end of the connection
        until(lambda: len(client.due) >= 20, what="twenty answers")
        found, lost = client.due[:20], client.lost[:]
        client.stopping = True
        client.waiting.clear()

    assert lost == []
    assert found == sorted(found), "those that wait take turns in the order in which they were due"


def test_nobody_waits_for_a_server_that_is_gone(asking: Callable[[Plan], Client]) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=500) as listener:
        client = asking(Plan(listener.getsockname()[1], 500.0, kept=1))
        connection, _ = listener.accept()
        until(lambda: len(client.waiting) >= 20, what="twenty requests that wait")
        waited = set(list(client.waiting)[:20])
    with connection:
        connection.recv(1 << 16)
    until(lambda: waited <= {due for due, _ in client.lost}, timeout=30, what="an end of all that waited")

    assert {why for due, why in client.lost if due in waited} == {"ECONNREFUSED, connecting"}


def test_another_program_in_the_same_process_is_seen() -> None:
    program = "import os, sys; input(); os.execv(sys.executable, [sys.executable, '-c', 'print(1); input()'])"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None and child.stdout is not None
        before = procfs.image(child.pid)
        assert procfs.image(child.pid) == before
        child.stdin.write(b"\n")
        child.stdin.flush()
        child.stdout.readline()
        assert procfs.image(child.pid) != before


WORKING = """
import threading, time

def work(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass

while input():
    thread = threading.Thread(target=work, args=[0.003])
    thread.start()
    thread.join()
    print(time.process_time(), flush=True)
"""


def test_processor_time_to_less_than_a_tick() -> None:
    """A supervisor uses less than a hundredth of a second in a load: none of it may be missing, in whatever thread."""
    with subprocess.Popen(
        [sys.executable, "-c", WORKING], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin is not None and child.stdout is not None
        for _ in range(3):
            child.stdin.write("work\n")
            child.stdin.flush()
            used = float(child.stdout.readline())
            assert (processor_time(child.pid) or 0.0) >= used
        child.stdin.write("\n")

    assert processor_time(child.pid) is None


@pytest.mark.slow
def test_deploys() -> None:
    """One reload with each kind of connection: it measures, loses nothing, and its exit code goes by the bounds."""
    argv = [sys.executable, "bench/deploys.py", "--quick", "--only", "reload", "--json"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=50, env={**os.environ})

    found = json.loads(done.stdout)
    lost = [figure for figure in found["figures"] if figure["name"].startswith("lost")]
    assert [figure["value"] for figure in lost] == [0, 0], done.stderr
    assert done.returncode == int(any(figure["ok"] is False for figure in found["figures"]))
