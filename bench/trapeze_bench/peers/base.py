"""What a scenario knows of a contestant, and what it can ask of one that runs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from trapeze_bench import procfs
from trapeze_bench.served import Served
from trapeze_bench.targets import Running, environment

__all__ = ["ORDERED", "Actor", "Launch", "Peer", "Said", "command", "ordered"]

ORDERED = 60.0
"""Seconds until a command that orders something is given up."""


class Said(NamedTuple):
    """What asking for something brought back."""

    asked: str
    """ "kill -HUP", "trapeze reload"."""
    code: int | None
    """Exit code; None: a signal, which says nothing."""
    words: str
    """The last line that the command printed."""
    seconds: float


class Actor:
    """A contestant that runs. This one is a master that reloads on SIGHUP and whose children are the workers."""

    def __init__(self, server: Running, served: Served) -> None:
        self.server = server
        self.served = served

    @property
    def master(self) -> int:
        """The process that supervises the workers."""
        return self.server.pid

    def workers(self) -> list[int]:
        """Pids, the oldest first."""
        return _by_age({pid: at for pid, at in procfs.children(self.master).items() if not _is_tracker(pid)})

    def reload(self) -> Said:
        """Ask for new code. It is not waited for longer than the asking itself takes."""
        return self.signalled(self.master)

    def signalled(self, pid: int) -> Said:
        """Send SIGHUP."""
        try:
            os.kill(pid, signal.SIGHUP)
        except ProcessLookupError:
            return Said("kill -HUP", 1, "no such process", 0.0)
        return Said("kill -HUP", None, "", 0.0)

    @property
    def lives(self) -> bool:
        """Is the process that was started still there?"""
        return self.server.popen.poll() is None


Launch = Callable[[Served, int, str], AbstractContextManager[Actor]]
"""From what is served, a port of 127.0.0.1 and a directory for sockets and output, to one that was started. It is
stopped at the end; it need not be up yet."""


@dataclass(frozen=True)
class Peer:
    """A contestant."""

    name: str
    interface: str
    launch: Launch
    install: str
    """The line that installs it."""
    installed: Callable[[], bool]
    preloads: bool = False
    """The app is imported once, before the workers are made."""

    @property
    def missing(self) -> str:
        """The line that installs it, if it is not."""
        return "" if self.installed() else self.install


def command(name: str) -> str | None:
    """A program beside our Python, or on the path: a process manager may be installed anywhere."""
    script = Path(sys.executable).with_name(name)
    return str(script) if script.exists() else shutil.which(name)


def ordered(server: Running, argv: Sequence[str], asked: str) -> Said:
    """Run a command that orders something; a time-out is a failure of it."""
    began = time.monotonic()
    try:
        done = subprocess.run(
            argv,
            env=environment(server.directory),
            cwd=server.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=ORDERED,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Said(asked, 1, f"did not end in {ORDERED:g} s", time.monotonic() - began)
    lines = [line for line in done.stdout.decode(errors="replace").splitlines() if line.strip()]
    return Said(asked, done.returncode, lines[-1].strip() if lines else "", time.monotonic() - began)


def _is_tracker(pid: int) -> bool:
    """multiprocessing's own helper stands beside the workers."""
    return any("resource_tracker" in word for word in procfs.words(pid))


def _by_age(found: dict[int, int]) -> list[int]:
    return sorted(found, key=lambda pid: (found[pid], pid))
