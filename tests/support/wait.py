"""The one bounded poll helper, for what cannot be waited for in a better way. The only file here that may sleep."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["until", "until_async"]

T = TypeVar("T")

FIRST_PAUSE = 0.001
"""Seconds; doubles up to LONGEST_PAUSE."""
LONGEST_PAUSE = 0.05


def until(predicate: Callable[[], T], timeout: float = 10, what: str = "") -> T:
    """Call `predicate` until what it returns is true, and return that.

    Args:
        predicate: looks, and does not wait.
        timeout: seconds; it is asked one last time when they are over.
        what: what is waited for, for the message.

    Raises:
        TimeoutError: it did not become true.
    """
    deadline = time.monotonic() + timeout
    pause = FIRST_PAUSE
    while True:
        late = time.monotonic() >= deadline
        found = predicate()
        if found:
            return found
        if late:
            raise TimeoutError(_message(predicate, timeout, what))
        time.sleep(pause)
        pause = min(pause * 2, LONGEST_PAUSE)


async def until_async(predicate: Callable[[], T], timeout: float = 10, what: str = "") -> T:
    """Do as `until` does, and let the running loop go on meanwhile."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    pause = FIRST_PAUSE
    while True:
        late = loop.time() >= deadline
        found = predicate()
        if found:
            return found
        if late:
            raise TimeoutError(_message(predicate, timeout, what))
        await asyncio.sleep(pause)
        pause = min(pause * 2, LONGEST_PAUSE)


def _message(predicate: Callable[[], object], timeout: float, what: str) -> str:
    return f"not within {timeout:g} s: {what or getattr(predicate, '__qualname__', repr(predicate))}"
