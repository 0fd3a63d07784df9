"""Ctrl-C and SIGTERM end a run in good order: what was started is stopped, what was measured is reported.

The first of them raises `KeyboardInterrupt`, but only where the code waits (`released`): between fork and the line that
notes whom to stop, nothing may break off. Those that come later are ignored: the end is under way, and has its limits.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType

__all__ = ["held", "interruptible", "output", "released"]

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _State:
    """One for the process, as the handlers are."""

    holding = False
    pending = False
    raised = False


def _handle(number: int, frame: FrameType | None) -> None:
    _State.pending = True
    _raise_if_due()


def _raise_if_due() -> None:
    if _State.pending and not _State.raised and not _State.holding:
        _State.raised = True
        raise KeyboardInterrupt


@contextmanager
def interruptible() -> Iterator[None]:
    """Take both signals over while it lasts. Only in the main thread."""
    _State.holding = _State.pending = _State.raised = False
    before = [(number, signal.signal(number, _handle)) for number in SIGNALS]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


@contextmanager
def held() -> Iterator[None]:
    """Nothing is raised in here, except where it is `released`; what came meanwhile is raised after it."""
    before, _State.holding = _State.holding, True
    try:
        yield
    finally:
        _State.holding = before
    _raise_if_due()


@contextmanager
def released() -> Iterator[None]:
    """Here it may be broken off, even if it is held around it: whoever holds it cleans up."""
    before, _State.holding = _State.holding, False
    try:
        _raise_if_due()
        yield
    finally:
        _State.holding = before


def output(
    argv: Sequence[str], timeout: float, env: Mapping[str, str] | None = None, data: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, as `subprocess.run` does, but killed for certain if it is broken off.

    Raises:
        subprocess.TimeoutExpired: it has taken longer than `timeout` seconds, and is killed.
    """
    with held():
        popen = subprocess.Popen(
            argv,
            env=env,
            stdin=subprocess.DEVNULL if data is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,  # ^C of a terminal is for us to pass on
        )
        try:
            with released():
                out, err = popen.communicate(data, timeout)
        finally:
            if popen.poll() is None:
                popen.kill()
            popen.communicate()
        return subprocess.CompletedProcess(argv, popen.returncode, out, err)
