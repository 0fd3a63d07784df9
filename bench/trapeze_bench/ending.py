"""The end of processes: of one that is to die, and of all that a measurement has left behind."""

from __future__ import annotations

import ctypes
import os
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from trapeze_bench import procfs

__all__ = ["adopting", "kill_and_wait", "stoppable"]

PR_SET_CHILD_SUBREAPER = 36
PR_GET_CHILD_SUBREAPER = 37
ROUNDS = 20
"""How many times we look for what is left: what is killed may have children of its own."""


def kill_and_wait(pid: int, patience: float = 5.0) -> None:
    """SIGKILL it; return when it has ended, so that it cannot have accepted what comes then.

    Raises:
        ProcessLookupError: it is not there.
    """
    fd = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(fd, signal.SIGKILL)
        select.select([fd], [], [], patience)
    finally:
        os.close(fd)


@contextmanager
def stoppable() -> Iterator[None]:
    """SIGTERM and SIGHUP are as good as Ctrl-C: what was started is ended. Main thread only.

    By default they end Python on the spot, and everything that it had started runs on.
    """
    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def adopting() -> Iterator[None]:
    """Workers whose master is killed become our children, and at the end whatever is left is killed, by its pid.

    Otherwise they would be init's, and nobody's to find. What was a child before is not touched.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    was = ctypes.c_int()
    libc.prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(was), 0, 0, 0)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    before = {**procfs.children(os.getpid()), **procfs.children(os.getpid(), ended=True)}
    try:
        yield
    finally:
        for _ in range(ROUNDS):
            left = [pid for pid in procfs.children(os.getpid()) if pid not in before]
            if not _ended(left):
                break
        _reap(before)
        libc.prctl(PR_SET_CHILD_SUBREAPER, was.value, 0, 0, 0)


def _ended(pids: list[int]) -> bool:
    """Kill them. Were there any?"""
    for pid in pids:
        with suppress(ProcessLookupError, ChildProcessError):
            kill_and_wait(pid)
            os.waitpid(pid, os.WNOHANG)
    return bool(pids)


def _reap(before: dict[int, int]) -> None:
    """Fetch the status of adopted ones that ended by themselves. Popen's own have been waited for by now."""
    for pid in procfs.children(os.getpid(), ended=True):
        if pid not in before:
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
