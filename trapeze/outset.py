"""What comes first in a program of ours that will run the supervisor, whichever way it starts."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

__all__ = ["fill_standard_descriptors", "no_ssl", "without"]


def fill_standard_descriptors() -> None:
    """With one of 0, 1, 2 closed, a listening socket would get its number, and output would go into it."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)


@contextlib.contextmanager
def without(*names: str) -> Iterator[None]:
    """Import what does without these modules where they are missing, as if they were."""
    absent = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]  # how Python spells "there is no such module"
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


def no_ssl() -> contextlib.AbstractContextManager[None]:
    """For asyncio: we never speak TLS. 6 ms and 2 MiB less."""
    return without("ssl")
