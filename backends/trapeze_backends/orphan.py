"""What becomes of a worker's listeners when its supervisor has died: the next start has to be able to bind.

A server closes its listeners when it begins to drain. One that is in the middle of a request with its only thread, or
whose event loop is blocked, comes to that late; then it is done for it from here. Requests go on meanwhile.
"""

from __future__ import annotations

import os
import stat
from _thread import start_new_thread  # these two as they were before gevent or eventlet replaced them
from time import sleep

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["let_go", "replace_sockets", "socket_inode"]

PATIENCE = 0.5
"""Seconds that the server has to close them itself, and in order."""


def let_go(inodes: frozenset[int]) -> None:
    """See to it that within a second this process holds none of these sockets, under whatever number.

    Returns at once; for signal handlers.
    """
    if inodes - {0}:
        start_new_thread(_late, (inodes - {0},))


def _late(inodes: frozenset[int]) -> None:
    sleep(PATIENCE)
    try:
        replace_sockets(fd for fd in map(int, os.listdir("/proc/self/fd")) if socket_inode(fd) in inodes)
    except OSError:
        return  # out of descriptors: the server closes them when it comes to it


def replace_sockets(fds: Iterable[int]) -> None:
    """Put a socket that listens where nobody knocks in the place of these listeners.

    Whoever still accepts finds nobody, and closing it once more later does no harm.

    Raises:
        OSError: out of descriptors.
    """
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as nobody:
        nobody.bind("")
        nobody.listen(1)
        for fd in fds:
            os.dup2(nobody.fileno(), fd, inheritable=False)


def socket_inode(fd: int) -> int:
    """What tells one socket from any other of this machine; 0 if it is none."""
    try:
        found = os.fstat(fd)
    except OSError:
        return 0
    return found.st_ino if stat.S_ISSOCK(found.st_mode) else 0
