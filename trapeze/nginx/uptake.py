"""Has a running nginx taken up its new configuration? `nginx -s reload` only sends a signal, and says that all is well.

What the test of a configuration does not find is found by the master alone: an address that another program listens on,
a log that it may not open. Then it goes on with the old one, and a line in its log says why.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Collection
from typing import NamedTuple

import psutil

from trapeze.doctor import nginxconf

__all__ = ["PATIENCE", "Running", "taken_up", "watched", "workers_of"]

PATIENCE = 10.0
"""Seconds that it gets: it tries to bind five times within 2.5 s, and starts its new workers at once otherwise."""
_PAUSE = 0.05
_SHOWN = 3
"""Lines of its log that are shown."""


class Running(NamedTuple):
    """An nginx before it is told."""

    pid_file: str
    workers: Collection[int]
    """Their pids. Empty: nothing is known of it, nothing can be said."""
    log: str
    """Its error log; "" where it has no file for it."""
    size: int
    """Of the log, bytes."""


def workers_of(pid_file: str) -> list[psutil.Process]:
    """Return the workers of the nginx whose master has written this file."""
    with contextlib.suppress(OSError, ValueError, psutil.Error):
        with open(pid_file, encoding="ascii") as file:
            master = psutil.Process(int(file.read()))
        return [child for child in master.children() if "worker process" in " ".join(child.cmdline())]
    return []


def watched(printed: str) -> Running:
    """Look at the nginx whose configuration `nginx -T` has printed."""
    main = next(iter(nginxconf.files(printed).values()), "")
    said = {each.words[0]: each.words[1] for each in nginxconf.parse(main) if len(each.words) > 1}
    pid_file = said.get("pid", "/run/nginx.pid")
    log = said.get("error_log", "/var/log/nginx/error.log")
    log = log if os.path.isfile(log) else ""
    pids = {each.pid for each in workers_of(pid_file)}
    return Running(pid_file, pids, log, os.path.getsize(log) if log else 0)


def taken_up(before: Running, patience: float = PATIENCE) -> str | None:
    """Wait until it has new workers; return what its log says if it gets none, and None if it has them."""
    end = time.monotonic() + patience
    while before.workers:
        if any(each.pid not in before.workers for each in workers_of(before.pid_file)):
            return None
        wrong = _complaints(before)
        # An address that is taken it tries again, and then says that it gives up; all else is final at once.
        if any(not line.startswith("bind() ") for line in wrong) or time.monotonic() > end:
            return "; ".join(wrong) or "its error log says why"
        time.sleep(_PAUSE)
    return None


def _complaints(before: Running) -> list[str]:
    """What it has logged since that kept it from going on, each thing once."""
    with contextlib.suppress(OSError):
        with open(before.log, encoding="utf-8", errors="replace") as file:
            file.seek(before.size)
            wrong = [line.partition("[emerg] ")[2] for line in file.read().splitlines() if "[emerg] " in line]
        return list(dict.fromkeys(line.partition(": ")[2] for line in wrong))[-_SHOWN:]
    return []
