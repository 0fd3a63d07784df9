"""Which epolls of this process wait for a socket: how it shows that threads of a server, in C or Rust, accept on it."""

from __future__ import annotations

import contextlib
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Set

__all__ = ["descriptors", "waiting_for"]


def descriptors() -> list[int]:
    """All that are open here."""
    return [int(name) for name in os.listdir("/proc/self/fd")]


def waiting_for(fds: Set[int]) -> Iterator[int]:
    """Yield the descriptors of epolls that wait for one of these."""
    for fd in descriptors():
        with contextlib.suppress(OSError, ValueError):  # closed meanwhile
            if os.readlink(f"/proc/self/fd/{fd}") == "anon_inode:[eventpoll]" and fds & _waited_for(fd):
                yield fd


def _waited_for(epoll: int) -> set[int]:
    with open(f"/proc/self/fdinfo/{epoll}", encoding="ascii") as file:
        return {int(line.split()[1]) for line in file if line.startswith("tfd:")}
