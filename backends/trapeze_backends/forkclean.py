"""Is it safe to fork, now that the app is imported?

Threads do not come through a fork, and a connection that two processes use answers the one what the other has asked.
What there is now is compared with what was there before the import, so that our own descriptors never count.

Some look bad and are not: OpenBLAS has threads, and stops and restarts them around a fork by itself; an event loop that
nobody runs has a pair of unnamed sockets; datagrams to syslog have no answers to mix up; queues are pipes that are
meant to be shared.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from typing import Any

__all__ = ["Before", "find", "look"]

SELF = "/proc/self"
ENDING = 0.1
"""Seconds that a thread which was joined may go on to be seen: the kernel is not done with it at once."""
BLAS_LIMITS = ("OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS")
MOST = 5
"""So many findings are named; the rest is counted."""


class Before:
    """What there was before the import: threads by id, descriptors by number and what they are of."""

    __slots__ = ("children", "fds", "tasks")

    def __init__(self, tasks: set[int], fds: dict[int, str], children: set[int]) -> None:
        self.tasks = tasks
        self.fds = fds
        self.children = children


class Findings:
    """What was found.

    Attributes:
        unsafe: why the app should not be forked, in words.
        warnings: what forked workers will share, and may not like to.
    """

    __slots__ = ("unsafe", "warnings")

    def __init__(self) -> None:
        self.unsafe: list[str] = []
        self.warnings: list[str] = []

    @property
    def reason(self) -> str:
        """All that is unsafe in one line, "" when nothing is."""
        more = len(self.unsafe) - MOST
        return "; ".join(self.unsafe[:MOST]) + (f"; and {more} more" if more > 0 else "")


def look() -> Before:
    """Note what there is."""
    return Before(_tasks(), _fds(), _children())


def find(before: Before, app_dir: str) -> Findings:
    """Return what has come since `before`; where it can be told, with the file below `app_dir` that it comes from."""
    found = Findings()
    found.unsafe += _threads(before.tasks, app_dir)
    for pid in sorted(_children() - before.children):
        name = _text(f"/proc/{pid}/comm")
        if name and "resource_tracker" not in _text(f"/proc/{pid}/cmdline"):  # multiprocessing's own is made for this
            found.unsafe.append(f"child process {name}")
    for fd, target in sorted(_fds().items()):
        if before.fds.get(fd) != target:
            _descriptor(fd, target, found)
    return found


# ---- threads ----


def _threads(before: set[int], app_dir: str) -> list[str]:
    """Describe the threads that have come."""
    found, known = _python_threads(app_dir)
    names = _native(before | known)
    if names:
        # Perhaps they are about to end: a short-lived pool has just been shut down.
        names = _wait_for_end(lambda: _native(before | known))
    if names:
        counts = {name: names.count(name) for name in sorted(set(names))}
        words = ", ".join(f"{name} x {count}" if count > 1 else name for name, count in counts.items())
        found.append(f"native thread{'s' if len(names) > 1 else ''} ({words})")
    return found


def _python_threads(app_dir: str) -> tuple[list[str], set[int]]:
    """Describe Python's threads but the main one; with the kernel's ids of all of them."""
    threading = sys.modules.get("threading")
    threads = threading.enumerate() if threading else []
    known = {number for thread in threads if (number := getattr(thread, "native_id", None)) is not None}
    # By its class: where eventlet has patched, the main thread has two objects.
    others = [thread for thread in threads if type(thread).__name__ != "_MainThread"]
    found = [f"thread {thread.name!r}{_origin(thread, app_dir)}" for thread in others]
    # Those that were started below `threading`, by _thread.start_new_thread, have a frame and no object.
    idents = {thread.ident for thread in threads}
    own = sys._getframe()
    for ident, frame in sys._current_frames().items():
        if ident not in idents and frame is not own:
            while frame.f_back is not None:
                frame = frame.f_back
            found.append(f"thread ({_short(frame.f_code.co_filename, app_dir)})")
            known |= _some_task(known)
    return found, known


def _some_task(known: set[int]) -> set[int]:
    """A thread without an object is one of the tasks that are left; which one nobody can tell, nor does it matter."""
    return set(sorted(_tasks() - known - {os.getpid()})[:1])


def _origin(thread: Any, app_dir: str) -> str:
    """Where the code of a thread is, in brackets; "" when that cannot be told."""
    function = getattr(thread, "_target", None) or type(thread).run
    while hasattr(function, "func"):
        function = function.func
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    return f" ({_short(code.co_filename, app_dir)})" if code is not None else ""


def _short(file: str, app_dir: str) -> str:
    """A file as people know it: relative to the app, or by its last two parts."""
    if app_dir and file.startswith(app_dir.rstrip("/") + "/"):
        return file[len(app_dir.rstrip("/")) + 1 :]
    return "/".join(file.split("/")[-2:])


def _native(known: set[int]) -> list[str]:
    """Names of threads that are not Python's, without those of OpenBLAS."""
    own = _text(f"{SELF}/comm")
    names = []
    blas = 0
    for task in sorted(_tasks() - known):
        name = _text(f"{SELF}/task/{task}/comm")
        if name == own:
            blas += 1
        elif name:
            names.append(name)
    if blas and blas > _blas_allowance():
        names += [own] * blas
    return names


def _blas_allowance() -> int:
    """How many threads OpenBLAS may have started: one less than processors for each copy of it that is loaded."""
    libraries = set()
    with open(f"{SELF}/maps", encoding="utf-8", errors="replace") as file:
        for line in file:
            path = line.rstrip("\n").partition("/")[2]
            if "openblas" in path.rpartition("/")[2].lower():
                libraries.add(path)
    said = [int(text) for name in BLAS_LIMITS if (text := os.environ.get(name, "")).isdigit()]
    return len(libraries) * (max([os.cpu_count() or 1, *said]) - 1)


def _wait_for_end(names: Callable[[], list[str]]) -> list[str]:
    """Look again for a moment; return what is still there."""
    import select
    import time

    end = time.monotonic() + ENDING
    left = names()
    while left and time.monotonic() < end:
        select.select([], [], [], 0.005)
        left = names()
    return left


# ---- descriptors ----


def _descriptor(fd: int, target: str, found: Findings) -> None:
    """Judge one descriptor."""
    if target.startswith("socket:"):
        reason = _socket(fd)
        if reason:
            found.unsafe.append(reason)
    elif target in ("anon_inode:[eventpoll]", "anon_inode:[io_uring]"):
        if not {"gevent.hub", "eventlet.hubs"} & set(sys.modules):  # their loops are made anew in each worker
            found.warnings.append(f"an event loop ({target[12:-1]}): do not use it in workers, make one there")
    elif target == "anon_inode:inotify":
        found.warnings.append("a watch of files (inotify)")
    elif target.startswith("/") and _is_sqlite(fd):
        found.warnings.append(f"an SQLite database ({target}): SQLite forbids this, open it anew in after_fork")


def _socket(fd: int) -> str:
    """Say what is wrong with sharing this socket, "" when nothing is."""
    import socket

    copy = socket.socket(fileno=os.dup(fd))
    with copy:
        if copy.family in (socket.AF_INET, socket.AF_INET6):
            return _inet(copy, socket)
        if copy.family != socket.AF_UNIX or copy.type == socket.SOCK_DGRAM:
            return ""
        if copy.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return f"listens on {_unix(copy.getsockname())}"
        try:
            peer = copy.getpeername() or copy.getsockname()  # the side that has accepted knows its own name only
        except OSError:
            return ""
        return f"connection to {_unix(peer)}" if peer else ""


def _inet(sock: socket.socket, socket: Any) -> str:
    try:
        return f"connection to {_address(sock.getpeername())}"
    except OSError:
        pass
    if sock.type == socket.SOCK_STREAM and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return f"listens on {_address(sock.getsockname())}"
    return ""


def _address(name: Any) -> str:
    return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"


def _unix(name: str | bytes) -> str:
    text = name.decode("utf-8", "replace") if isinstance(name, bytes) else name
    return "unix:" + ("@" + text[1:] if text.startswith("\0") else text)


def _is_sqlite(fd: int) -> bool:
    try:
        return os.pread(fd, 16, 0) == b"SQLite format 3\0"
    except OSError:  # a directory, a file opened for writing
        return False


# ---- /proc ----


def _tasks() -> set[int]:
    return {int(name) for name in os.listdir(f"{SELF}/task")}


def _fds() -> dict[int, str]:
    found = {}
    for name in os.listdir(f"{SELF}/fd"):
        try:
            found[int(name)] = os.readlink(f"{SELF}/fd/{name}")
        except OSError:  # the one of this very look
            continue
    return found


def _children() -> set[int]:
    found: set[int] = set()
    for task in _tasks():
        found |= {int(pid) for pid in _text(f"{SELF}/task/{task}/children").split()}
    return found


def _text(path: str) -> str:
    """A small file of the kernel's, "" when there is none (any more)."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().rstrip("\n")
    except OSError:
        return ""
