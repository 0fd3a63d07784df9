"""Signals in the first tenths of a second, while the program is still being imported. Imports next to nothing.

By default TERM would end the program with 143, HUP with 129, and INT with a traceback; as pid 1 of a container, which
has no defaults, TERM would be lost for good, and `docker stop` would wait until it kills.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

__all__ = ["ENDING", "HARMLESS", "ignore", "install", "leave", "stays"]

ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
HARMLESS = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU)
"""Nothing is there yet to reload or reopen; by default they would end us."""


def stays(words: Sequence[str]) -> bool:
    """Is it a command line of `serve` or `up`? All others are over soon, and end as Python does."""
    skip = False
    for word in words:
        if skip or word.startswith("-"):
            skip = word == "--name" and not skip
        else:
            return word in ("serve", "up")
    return False


def install(words: Sequence[str] | None = None) -> None:
    """Obey from here on, if this is a command that stays. `app` takes over once there is something to undo."""
    if stays(sys.argv[1:] if words is None else words):
        for signum in ENDING:
            signal.signal(signum, leave)
        for signum in HARMLESS:
            signal.signal(signum, ignore)


def leave(_signum: int, _frame: FrameType | None) -> NoReturn:
    """End at once: nothing has been opened."""
    os._exit(0)


def ignore(_signum: int, _frame: FrameType | None) -> None:
    """Do nothing. Not SIG_IGN, which children would inherit."""
