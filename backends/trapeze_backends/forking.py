"""How a zygote makes a worker: the request, the double fork, and what the new process does before it serves.

Forked twice, so that the worker becomes the supervisor's own child (a subreaper), with a real exit status. The order of
the calls matters at each step; what goes wrong otherwise is said where they stand.

System calls by `posix` and `_socket`: what patches `os` and `socket` for green threads has no business here.
"""

from __future__ import annotations

import _socket
import os
import sys
from array import array
from posix import _exit, close, dup2, fork, getpid, pipe, read, setpgid, waitpid, write
from select import POLLIN, poll

from trapeze_backends.contract import Job, StartError
from trapeze_backends.jsontext import dumps, loads
from trapeze_backends.process import follow_parent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["Line", "Order", "Packet", "Reserve", "begin", "fork_reserve", "fork_worker"]

PACKET = 256 * 1024
"""Bytes of one request at most; a job is one or two thousand."""
MOST_FDS = 253
"""The kernel passes no more at once."""
CLOSE_ON_EXEC: int = getattr(_socket, "MSG_CMSG_CLOEXEC", 0x40000000)
"""Of descriptors that come with a packet; PyPy does not name it."""


class Order:
    """One request for a worker, or for an heir of the zygote.

    Attributes:
        job: what the worker shall do, with descriptors of this process.
        stdio: its stdout and stderr; None: those that this process has.
        go: it begins when a byte comes, and leaves when nothing can come any more; None: at once.
        fds: all descriptors that came with the request.
    """

    def __init__(self, raw: dict[str, Any], fds: list[int]) -> None:
        self.id: int = raw["id"]
        self.fds = fds
        self.job = Job(_with_fds(raw["job"], fds))
        stdio = raw.get("stdio")
        self.stdio: list[int] | None = [fds[place] for place in stdio] if stdio else None
        go = raw.get("go")
        self.go: int | None = None if go is None else fds[go]

    @property
    def kept(self) -> set[int]:
        """Those descriptors that the worker goes on using."""
        job = self.job
        kept = {listener.fd for listener in job.listeners}
        if job.notify_fd is not None:
            kept.add(job.notify_fd)
        if job.board:
            kept.add(job.board["fd"])
        if job.fork_fd is not None:
            kept.add(job.fork_fd)
        return kept


def _with_fds(job: dict[str, Any], fds: list[int]) -> dict[str, Any]:
    """The job, with numbers of descriptors where it has their places in the packet."""
    made = dict(job)
    for name in ("notify_fd", "fork_fd"):
        if job.get(name) is not None:
            made[name] = fds[job[name]]
    made["sockets"] = [{**entry, "fd": fds[entry["fd"]]} for entry in job.get("sockets") or []]
    if job.get("board"):
        made["board"] = {**job["board"], "fd": fds[job["board"]["fd"]]}
    return made


class Line:
    """The socket on which the supervisor asks for workers."""

    def __init__(self, fd: int) -> None:
        self._sock = _socket.socket(fileno=fd)
        os.set_inheritable(fd, False)

    @property
    def fd(self) -> int:
        """Its descriptor."""
        return self._sock.fileno()

    def is_quiet(self, seconds: float) -> bool:
        """Does nobody ask for anything within so many seconds?"""
        looks = poll()
        looks.register(self._sock, POLLIN)
        return not looks.poll(int(seconds * 1000))

    def receive(self) -> Packet | None:
        """Wait for the next request; None when there will be no more. One that makes no sense is answered here."""
        while True:
            data, fds, flags = _receive(self._sock)
            if not data:
                return None
            raw: Any = {}
            try:
                if flags & (_socket.MSG_TRUNC | _socket.MSG_CTRUNC):
                    raise ValueError("it was cut off: too long, or no descriptors are left here")
                raw = loads(data.decode())
                return Packet(data, fds, Order(raw, fds))
            except (ValueError, KeyError, IndexError, TypeError, StartError) as error:
                self.answer(raw.get("id", 0), error=f"cannot read the request: {type(error).__name__}: {error}")
                close_all(fds)

    def answer(self, number: int, **fields: int | str) -> None:
        """Answer request `number`; nothing happens when the supervisor is gone, which `receive` will notice."""
        try:
            self._sock.send(dumps({"id": number, **fields}).encode("utf-8", "backslashreplace"))
        except OSError:
            return

    def close(self) -> None:
        """Close it."""
        self._sock.close()


class Packet:
    """A request as it came, to be handed on, and as it was understood."""

    __slots__ = ("data", "fds", "order")

    def __init__(self, data: bytes, fds: list[int], order: Order) -> None:
        self.data = data
        self.fds = fds
        self.order = order


class Reserve:
    """A worker that was forked before anybody asked for it: when one dies, its successor need not be made first.

    It waits for the request of another day, and leaves when the zygote is gone. Until it begins it stays in the
    zygote's process group, so that whoever ends that ends both.
    """

    def __init__(self, pid: int, sock: _socket.socket) -> None:
        self.pid = pid
        self._sock = sock

    def hand_on(self, packet: Packet) -> bool:
        """Give it the request; False when it is not there any more."""
        rights = array("i", packet.fds)
        try:
            self._sock.sendmsg([packet.data], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)] if rights else [])
        except OSError:
            return False
        finally:
            self._sock.close()
        return True


def fork_reserve(let_go: Callable[[], object]) -> Reserve | Order:
    """Fork a worker for later. Returns the reserve in the zygote, and in the worker, when its time has come, its order.

    Args:
        let_go: called in the worker at once: closes what only the zygote may hold open.

    Raises:
        OSError: there is no place for another process.
    """
    here, there = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    try:
        pid = fork_worker()
    except BaseException:
        here.close()
        there.close()
        raise
    if pid:
        there.close()
        return Reserve(pid, here)
    here.close()
    let_go()
    data, fds, _ = _receive(there)
    if not data:
        _exit(0)
    there.close()
    return Order(loads(data.decode()), fds)


def _receive(sock: _socket.socket) -> tuple[bytes, list[int], int]:
    """One packet, its descriptors, and the flags it came with."""
    sock.settimeout(None)  # the app may have set a default timeout for all sockets
    data, control, flags, _ = sock.recvmsg(PACKET, _socket.CMSG_SPACE(4 * MOST_FDS), CLOSE_ON_EXEC)
    return data, _descriptors(control), flags


def _descriptors(control: list[tuple[int, int, bytes]]) -> list[int]:
    fds: list[int] = []
    for level, kind, data in control:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            fds += memoryview(data[: len(data) // 4 * 4]).cast("i").tolist()
    return fds


def close_all(fds: list[int]) -> None:
    """Close descriptors that came with a request."""
    for fd in fds:
        close(fd)


def fork_worker() -> int:
    """Fork twice. Returns 0 in the worker, its pid in the zygote; the process between the two ends in here.

    The pid is returned only when the middle process has been reaped: from then on the worker is the supervisor's child.
    (Told before, the supervisor might see it die and find that it has no such child.)

    Raises:
        OSError: there is no place for another process.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()  # or the worker would write it once more
        except (OSError, ValueError, AttributeError):
            continue
    said, say = pipe()
    try:
        middle = fork()
    except BaseException:
        close(said)
        close(say)
        raise
    if middle == 0:
        return _in_the_middle(said, say)
    close(say)
    text = read(said, 64)
    close(said)
    try:  # noqa: SIM105  (contextlib is not worth its import here)
        waitpid(middle, 0)
    except ChildProcessError:
        pass  # the app ignores SIGCHLD, or reaps whatever ends: it is gone, which is what was waited for
    if not text.isdigit():
        number = int(text.removeprefix(b"E") or b"5")
        raise OSError(number, os.strerror(number))
    return int(text)


def _in_the_middle(said: int, say: int) -> int:
    """Fork the worker and end: by `_exit`, since neither atexit nor any `finally` of the app's is for this process."""
    try:
        pid = fork()
        if pid == 0:
            close(said)
            close(say)
            return 0
        write(say, b"%d" % pid)
    except OSError as error:
        write(say, b"E%d" % (error.errno or 5))
    except BaseException:
        # What fork hooks of the app raise is printed by the interpreter; nothing else can.
        _exit(1)
    _exit(0)


def begin(order: Order) -> None:
    """In the worker: wait for the word to begin, then settle as a process that was spawned does."""
    setpgid(0, 0)  # a group of its own, for `kill`
    if order.go is not None and not read(order.go, 1):
        _exit(0)  # not wanted any more, or nobody is left to want it
    # Only now: while the middle process was our parent, its end would have been the death of a parent.
    follow_parent(order.job.parent, order.job.stop_signal)
    if order.stdio is not None:
        for fd, number in zip(order.stdio, (1, 2), strict=True):
            dup2(fd, number)
    close_all(sorted(set(order.fds) - order.kept))
    wake_green_threads()


def wake_green_threads() -> None:
    """Loops of green threads have an epoll of their own, which parent and child must not share."""
    gevent = sys.modules.get("gevent.hub")
    if gevent is not None:
        gevent.reinit()
    hubs = sys.modules.get("eventlet.hubs")
    if hubs is not None and hasattr(hubs._threadlocal, "hub"):
        hubs.use_hub()


def own_pid() -> int:
    """The pid of this process, asked of the kernel."""
    return getpid()
