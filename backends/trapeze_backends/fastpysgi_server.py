"""How fastpysgi runs here: on sockets that are not its own, and turn by turn, so that Python sees what happens.

**Sockets.** It binds and listens for itself. Here it is told to do so on a few addresses of the loopback interface, on
ports that the kernel chooses; then our sockets take the place of its own, under the same numbers. Its loop has not
begun yet: it waits for, and accepts from, whatever has that number.

**The loop.** fastpysgi's own never comes back to Python, where signals are handled and beats are made. It has a mode
for those who have a loop: one turn that handles what is there. We wait for the descriptor of its epoll, and take turns
until nothing happens any more. What it has written it notes in the turn after: hence the two turns at the end.

**Stopping.** The listener is taken out of its epoll, and a socket that nobody knows of put in its place.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import sys
import time

from trapeze_backends.accepted import UNSURE, Accepted
from trapeze_backends.contract import StartError
from trapeze_backends.endless import may_end
from trapeze_backends.quick import quick_import
from trapeze_backends.wsgi_common import host_and_port

with quick_import("argparse"):
    import _fastpysgi
    import fastpysgi

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    from trapeze_backends.worker import Worker

__all__ = ["run"]

MOST = 4
"""Sockets that it takes (HTTP_SERVERS_MAX)."""
DRAIN_TICK = 0.02
"""Seconds between two looks while it drains."""
TURNS = 64
"""Turns after which the rest of the loop gets a turn too, however much there is to do."""


class Counts:
    """What has happened: whoever sees a change takes another turn."""

    __slots__ = ("begun", "events", "is_shut")

    def __init__(self) -> None:
        self.begun = 0
        self.events = 0
        self.is_shut = False
        """Answers say that the connection closes."""


def run(app: Any, sockets: list[socket.socket], worker: Worker) -> None:
    """Serve until the worker is asked to stop, then drain."""
    if len(sockets) > MOST:
        raise StartError(f"fastpysgi serves {MOST} addresses at most, and there are {len(sockets)}")
    counts = Counts()
    accepted = [Accepted(sock) for sock in sockets]
    wake = worker.wake_fd()
    server = _server(app, sockets, worker, counts)
    worker.restore_backlog(sockets)
    loop, numbers = _put_in_place(server, sockets)
    worker.ready()
    poll = select.poll()
    poll.register(loop, select.POLLIN)
    poll.register(wake, select.POLLIN)
    longest = min(worker.pulse * 1000, server.svc_timer_interval)
    while not worker.stopping:
        worker.beat(counts.begun, 0)
        poll.poll(longest if _take_turns(server, worker, counts) else 0)
    _shut(loop, numbers)
    server.set_allow_keepalive(False)
    counts.is_shut = True
    for each in accepted:
        each.watch()
    _drain(server, accepted, poll, worker, counts)


def _take_turns(server: Any, worker: Worker, counts: Counts) -> bool:
    """Handle what is there; return whether nothing is left to do.

    Once the worker is to leave, not before answers say so: a client may find its connection closed otherwise.
    """
    turn, quiet = _fastpysgi.run_nowait, 0
    for _ in range(TURNS):
        if worker.stopping and not counts.is_shut:
            return False
        before = counts.events
        turn(server)
        quiet = quiet + 1 if counts.events == before else 0
        if quiet == 2:
            return True
    return False


def _drain(server: Any, every: list[Accepted], poll: select.poll, worker: Worker, counts: Counts) -> None:
    end = time.monotonic() + worker.job.patience
    while True:
        now = time.monotonic()
        worker.beat(counts.begun, 0)
        if _take_turns(server, worker, counts):
            over = now >= worker.grace_ends
            late = now >= worker.grace_ends + UNSURE
            if not sum(each.look(end_idle=over, end_unsure=late).total for each in every):
                return
            poll.poll(DRAIN_TICK * 1000)
        if now >= end:
            worker.leave_now()


# ---- its sockets ----


def _server(app: Any, sockets: list[socket.socket], worker: Worker, counts: Counts) -> Any:
    """fastpysgi's own object, set up."""
    job, server = worker.job, fastpysgi.server
    hosts = [f"127.0.0.{number}" for number in range(1, len(sockets) + 1)]
    server.app = _adapted(app, {host: _facts(sock, worker) for host, sock in zip(hosts, sockets)}, worker, counts)  # noqa: B905
    server.bindlist = [(host, 0) for host in hosts]
    server.loglevel = fastpysgi.LL_DISABLED
    server.hook_sigint = 0
    server.nowait = 1
    server.max_content_length = (1 << 31) - 1  # its own is 10 MB
    server.max_chunk_size = 65536
    if job.keepalive is not None:
        server.allow_keepalive = job.keepalive > 0
        server.next_req_timeout = int(job.keepalive * 1000)
        server.svc_timer_interval = max(min(int(job.keepalive * 250), 3000), 50)
    for name, value in job.options.items():
        setattr(server, name, value)
    return server


def _put_in_place(server: Any, sockets: list[socket.socket]) -> tuple[int, list[int]]:
    """Let it bind, and put our sockets in the place of its own; return its epoll and their numbers."""
    before = set(os.listdir("/proc/self/fd"))
    _quietly(lambda: _fastpysgi.init_server(server))
    epoll, places = -1, {}
    for entry in set(os.listdir("/proc/self/fd")) - before:
        fd = int(entry)
        try:
            if os.readlink(f"/proc/self/fd/{fd}") == "anon_inode:[eventpoll]":
                epoll = fd
                continue
            with socket.socket(fileno=os.dup(fd)) as found:
                if found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    places[found.getsockname()[0]] = fd
        except OSError:
            continue  # no socket
    numbers = [places.get(host, -1) for host, _ in server.bindlist]
    if epoll < 0 or min(numbers) < 0:
        raise StartError(f"fastpysgi {fastpysgi.__version__} is not as trapeze knows it: its sockets were not found")
    for sock, fd in zip(sockets, numbers):  # noqa: B905
        os.dup2(sock.fileno(), fd, inheritable=False)
        sock.close()
    return epoll, numbers


def _quietly(call: Callable[[], object]) -> None:
    """fastpysgi says hello on C's stdout, whatever its log level."""
    sys.stdout.flush()
    kept = os.dup(1)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    try:
        call()
        _flush()
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(null)


def _flush() -> None:
    """C's own buffers."""
    try:
        from _ctypes import call_function, dlopen, dlsym

        itself: Any = None
        call_function(dlsym(dlopen(itself, 2), "fflush"), (0,))
    except (ImportError, AttributeError, OSError, TypeError):
        return  # a Python without libffi: then it says hello


def _shut(loop: int, numbers: list[int]) -> None:
    """Accept nobody any more; those who are in may stay."""
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as nobody,
        select.epoll.fromfd(os.dup(loop)) as epoll,
    ):
        nobody.bind("")
        nobody.listen(1)
        for fd in numbers:
            with contextlib.suppress(OSError):  # its loop has not begun
                epoll.unregister(fd)
            os.dup2(nobody.fileno(), fd, inheritable=False)


# ---- its requests ----


def _facts(sock: socket.socket, worker: Worker) -> tuple[dict[str, Any], bool]:
    name, port = host_and_port(sock)
    facts = {
        "SERVER_NAME": name,
        "SERVER_PORT": port,
        "wsgi.multiprocess": worker.job.workers > 1,
        "wsgi.errors": sys.stderr,
        "wsgi.input_terminated": True,
    }
    return facts, sock.family == socket.AF_UNIX


def _adapted(app: Any, facts: dict[str, tuple[dict[str, Any], bool]], worker: Worker, counts: Counts) -> Any:
    """Return `app` with environ and answers put right."""

    def adapted(environ: dict[str, Any], start_response: Any) -> Any:
        counts.begun += 1
        counts.events += 1
        known, is_unix = facts[environ["SERVER_NAME"]]
        environ.update(known)
        if is_unix:
            environ["REMOTE_ADDR"] = ""
        else:
            address, _, environ["REMOTE_PORT"] = environ["REMOTE_ADDR"].rpartition(":")
            environ["REMOTE_ADDR"] = address.strip("[]")
        if not environ["PATH_INFO"].isascii():  # bytes as latin-1, says PEP 3333; it decodes UTF-8
            environ["PATH_INFO"] = environ["PATH_INFO"].encode().decode("latin-1")
        answer = Answer(start_response)
        result = app(environ, answer)
        if type(result) is list and len(result) == 1 and answer.said and not answer.written:
            return result[0]
        return _answered(result, answer, worker, counts)

    return adapted


class Answer:
    """start_response, with the `write` that fastpysgi's own lacks. One is made for each request: the less there is to
    set, the better."""

    said = False
    headers: Any = ()
    written: Sequence[bytes] = ()

    def __init__(self, start_response: Any) -> None:
        self._start_response = start_response

    def __call__(self, status: str, headers: Any, exc_info: Any = None) -> Callable[[bytes], None]:
        if self.said and exc_info is None:
            raise AssertionError("start_response was called twice")
        self.said = True
        for _, value in headers:
            if not value.isascii():
                headers = [(name, value if value.isascii() else _as_sent(value)) for name, value in headers]
                break
        self.headers = headers
        if exc_info is None:
            self._start_response(status, headers)
        else:
            self._start_response(status, headers, exc_info)
        return self._write

    def _write(self, piece: bytes) -> None:
        self.written = [*self.written, piece]


def _as_sent(value: str) -> str:
    """Text stands for bytes, as latin-1; fastpysgi sends it as UTF-8. What is no UTF-8 cannot be sent as it is."""
    try:
        return value.encode("latin-1").decode()
    except UnicodeError:
        return value


def _answered(result: Any, answer: Answer, worker: Worker, counts: Counts) -> Any:
    if isinstance(result, (list, tuple)) and answer.said:
        body = b"".join([*answer.written, *result])
        if hasattr(result, "close"):
            result.close()
        return body
    pieces = Pieces(result, answer, worker, counts)
    try:
        first = next(pieces, b"")  # may be what calls start_response, without which fastpysgi crashes
        if not answer.said:
            raise AssertionError("the app did not call start_response")
    except BaseException:
        pieces.close()
        raise
    pieces.first = b"".join([*answer.written, first])
    return pieces


class Pieces:
    """What the app returned, piece by piece. Empty ones are left out: fastpysgi may take one for the end."""

    def __init__(self, result: Any, answer: Answer, worker: Worker, counts: Counts) -> None:
        self.first = b""
        self._counts = counts
        self._result = result
        self._rest: Iterator[bytes] = iter(may_end(result, lambda: answer.headers, worker))

    def __iter__(self) -> Pieces:
        return self

    def __next__(self) -> bytes:
        self._counts.events += 1
        if self.first:
            first, self.first = self.first, b""
            return first
        for piece in self._rest:
            if piece:
                return piece
        raise StopIteration

    def close(self) -> None:
        """The app's own."""
        self._counts.events += 1
        result, self._result = self._result, None
        if hasattr(result, "close"):
            result.close()
