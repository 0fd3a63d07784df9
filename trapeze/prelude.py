"""What runs between exec and the program: one spawn as plain data, and the command line that carries it out.

There are two preludes:

* workers of ours, and commands that take descriptors or limits: Python with `boot.BOOT` and a Job in a memfd (5-10 ms
  of processor time);
* plain commands: setpriv(1) and sh(1) (1.4 ms), which set the parent-death signal and check the parent. Two hundred
  side processes start in a third of a second instead of two. Where setpriv is missing they take the first way.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Protocol

import msgspec
from msgspec import Struct

from trapeze.boot import BOOT
from trapeze.limits import signal_name

__all__ = [
    "DUMP_SIGNAL",
    "ChildHandle",
    "Launch",
    "Listener",
    "is_plain",
    "job_of",
    "open_job",
    "plain_words",
    "worker_package",
]


class Launch(Struct, frozen=True, kw_only=True):
    """Everything one spawn needs, as plain data."""

    label: str
    """What `ps` shows: web[0] and the app."""
    argv: Sequence[str] = ()
    """The program, for a plain command; empty when `job` says what to run."""
    job: Mapping[str, object] | None = None
    """For the Python prelude; see the worker contract. `notify_fd` is filled in here."""
    python: str = sys.executable
    """The interpreter of the prelude."""
    env: Mapping[str, str] = {}
    cwd: str = "/"
    user: int | None = None
    group: int | None = None
    groups: Sequence[int] | None = None
    umask: int = -1
    nice: int | None = None
    fds: Sequence[int] = ()
    """Listening sockets that are inherited under their own numbers."""
    stdin: int | None = None
    """A descriptor for 0; None is /dev/null."""
    terminal: bool = False
    """The child keeps our terminal: stdin, stdout, stderr and process group (for a debugger)."""
    notify: bool = False
    """A command that says READY=1 itself, by NOTIFY_SOCKET."""
    stop_signal: int = signal.SIGTERM
    stop_timeout: float = 30.0
    """Seconds until SIGKILL, for the keeper; we ourselves go by the deadlines of the process."""
    kill_group: bool = True
    forks: bool = False
    """A zygote or a spare: it gets a line on which we ask it for workers."""
    nofile: tuple[int, int] | None = None
    """The limit on descriptors to give back to the child, where the supervisor raised its own."""


class Listener(Protocol):
    """Who is told what becomes of a child. All calls come from the event loop."""

    def on_line(self, stream: str, text: str, more: bool) -> None:
        """A line of output; `more` if it is only a piece."""

    def on_message(self, datagram: bytes) -> None:
        """A datagram of the notify protocol, its sender checked."""

    def on_exit(self, status: int) -> None:
        """Reaped; `status` as `os.waitstatus_to_exitcode`. All output it wrote has been handed on before."""


class ForkListener(Listener, Protocol):
    """Who is told what becomes of a child that a zygote makes for us."""

    def on_pid(self, pid: int) -> None:
        """A zygote has made it; for what we spawn ourselves the pid is known at once, and this is not called."""

    def on_failed(self, reason: str) -> None:
        """A zygote could not make it: there is no process, and there will be no `on_exit`."""


class ChildHandle(Protocol):
    """What the machine may do with a child: the whole seam to the operating system."""

    pid: int
    unreachable: bool
    """It has become another user's, and not even SIGKILL may be sent: nobody can wait for it."""

    def send(self, signum: int) -> None:
        """Signal the process; nothing happens if it is gone."""

    def tell(self, text: str) -> None:
        """Say something to a worker of ours, by the socket on which it speaks to us; nothing happens to others."""

    def give_way(self) -> None:
        """Let others have the processor first, while it imports; nothing happens where that cannot be undone."""

    def hurry(self) -> None:
        """Undo that: it is done, or waited for."""

    def kill(self) -> None:
        """SIGKILL, to the group where it has one."""


DUMP_SIGNAL = signal.SIGRTMAX - 3
"""Makes a worker of ours write the stacks of all its threads. A real-time one: gunicorn resets the ordinary ones."""


@cache
def _setpriv() -> str | None:
    from shutil import which  # with it come three kinds of compression, 4 ms of a start

    return which("setpriv", path="/usr/bin:/bin:/usr/local/bin")


@cache
def worker_package() -> str:
    """The directory that holds `trapeze_backends`: beside this package when installed, in backends/ in a checkout.

    Raises:
        RuntimeError: it is in neither place.
    """
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    for candidate in (here, os.path.join(here, "backends")):
        if os.path.isdir(os.path.join(candidate, "trapeze_backends")):
            return candidate
    raise RuntimeError("trapeze_backends is missing: the installation is broken")


# sh: $1 is the supervisor's pid. A parent that died before the death signal was set would never send it.
_CHECK_PARENT = '[ "$PPID" = "$1" ] || exit 1; shift; exec "$@"'


def is_plain(launch: Launch) -> bool:
    """Needs nothing but the parent-death signal, and the tools for that are there."""
    return launch.job is None and launch.nice is None and launch.nofile is None and _setpriv() is not None


def plain_words(launch: Launch) -> list[str]:
    """The command line of a plain command."""
    setpriv = _setpriv()
    assert setpriv is not None
    return [
        setpriv,
        "--pdeathsig",
        signal_name(launch.stop_signal),
        "/bin/sh",
        "-c",
        _CHECK_PARENT,
        "sh",
        str(os.getpid()),
        *launch.argv,
    ]


def job_of(launch: Launch, notify_fd: int | None, fork_fd: int | None = None) -> dict[str, object]:
    """The Job of everything else; see the worker contract."""
    job: dict[str, object] = {
        "version": 1,
        "mode": "exec",
        "command": list(launch.argv),
        "sockets": [],
        "named": {},
        "rlimits": {},
        **(launch.job or {}),
        "label": launch.label,
        "parent": os.getpid(),
        "stop_signal": int(launch.stop_signal),
        "nice": launch.nice,
        "notify_fd": notify_fd,
        "fork_fd": fork_fd,
        "dump_signal": DUMP_SIGNAL,
    }
    limits = job["rlimits"]
    if launch.nofile is not None and isinstance(limits, dict):
        job["rlimits"] = {"nofile": launch.nofile, **limits}
    return job


def open_job(job: Mapping[str, object]) -> int:
    """Return a descriptor from which the child reads BOOT and the Job: never argv or /tmp, which others may read."""
    memfd = os.memfd_create("trapeze-job")
    try:
        os.write(memfd, BOOT.encode() + b"\0" + msgspec.json.encode(job))
    except BaseException:
        os.close(memfd)
        raise
    return memfd
