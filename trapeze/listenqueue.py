"""The queue of a listening socket, as the kernel knows it: how many connections wait to be accepted, how many may.

TCP: `TCP_INFO` of a listener (the two fields that count segments of a connection; linux/net/ipv4/tcp.c), and the drops
of `SO_MEMINFO`. Unix: sock_diag(7), `UDIAG_SHOW_RQLEN`, where the same two numbers stand in `udiag_rqueue` and
`udiag_wqueue`; who finds such a queue full waits, so that there are no drops.
"""

from __future__ import annotations

import os
import socket
import struct
from typing import NamedTuple

__all__ = ["NOTHING", "Queue", "look"]

_LISTEN = 10
"""The state, in TCP_INFO and as a bit in sock_diag."""
_SO_MEMINFO = 55
_DROPS = 8
_SOCK_DIAG = 4
_BY_FAMILY = 20
_ERROR = 2
_REQUEST = 1
_SHOW_RQLEN = 0x10
_RQLEN = 4
_REQUEST_FORMAT = struct.Struct("=IHHII BBHIIIII")
_STATE = 16 + 2
_ANSWER_LENGTH = 16 + 16
"""Of the head of a message and of `unix_diag_msg`, behind which the attributes stand."""


class Queue(NamedTuple):
    """None each where it cannot be known."""

    waiting: int | None = None
    """Connections that nobody has accepted yet."""
    limit: int | None = None
    """How many may wait: the backlog, or net.core.somaxconn if that is less."""
    dropped: int | None = None
    """Connections that were turned away since the socket was made, most of them because the queue was full."""


NOTHING = Queue()


def look(fd: int) -> Queue:
    """Return the queue of a socket; empty where it does not listen, or the kernel does not tell."""
    try:
        with _duplicate(fd) as sock:
            if sock.family == socket.AF_UNIX:
                return _unix(os.fstat(fd).st_ino)
            return _tcp(sock)
    except (OSError, struct.error):
        return NOTHING


def _duplicate(fd: int) -> socket.socket:
    copy = os.dup(fd)
    try:
        return socket.socket(fileno=copy)
    except OSError:  # it is no socket
        os.close(copy)
        raise


def _tcp(sock: socket.socket) -> Queue:
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    if info[0] != _LISTEN:
        return NOTHING
    waiting, limit = struct.unpack_from("=II", info, 24)
    memory = sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 4 * (_DROPS + 1))
    return Queue(waiting, limit, struct.unpack_from("=I", memory, 4 * _DROPS)[0])


def _unix(inode: int) -> Queue:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG) as netlink:
        netlink.settimeout(1)  # the kernel answers within the call; nobody else can
        anything = 0xFFFFFFFF
        head = (_REQUEST_FORMAT.size, _BY_FAMILY, _REQUEST, 0, 0)
        body = (socket.AF_UNIX, 0, 0, 1 << _LISTEN, inode, _SHOW_RQLEN, anything, anything)
        netlink.sendto(_REQUEST_FORMAT.pack(*head, *body), (0, 0))
        answer = netlink.recv(4096)
    length, kind = struct.unpack_from("=IH", answer)
    if kind == _ERROR or answer[_STATE] != _LISTEN:
        return NOTHING
    place = _ANSWER_LENGTH
    while place + 4 <= length:
        size, attribute = struct.unpack_from("=HH", answer, place)
        if attribute == _RQLEN:
            waiting, limit = struct.unpack_from("=II", answer, place + 4)
            return Queue(waiting, limit)
        place += (size + 3) & ~3 or 4
    return NOTHING
