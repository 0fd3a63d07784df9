"""The doorstep of a listening socket: who stands there, and how to let nobody else come up to it.

A connection is made by the kernel and then waits in the listen queue until a worker accepts it. When the last worker
is to leave, closing the socket would reset all that wait. So first nobody new is let in, and the workers go on until
the queue is empty:

- TCP, over IPv4 and IPv6: a classic BPF filter on the listener drops each SYN. What else a handshake needs passes, so
  a connection that was half open is still completed. To a client it looks like a lost packet: it tries again after a
  second, and is refused once the socket is closed.
- Unix: the file gets another name, under which no client looks for it (`unixsockets`).

Abstract Unix sockets have no file, and a filter on them is not asked at connect(): they cannot be closed this way.
"""

from __future__ import annotations

import ctypes
import select
import socket
import struct

__all__ = ["admit", "turn_away", "turns_away", "waiting"]

_SO_ATTACH_FILTER = 26
_SO_DETACH_FILTER = 27
_SO_GET_FILTER = 26

_FLAGS = 13
"""Offset of the flags in a TCP header, which is where the filter of a TCP socket begins to read."""
_SYN = 0x02
_ACK = 0x10
_LOAD_BYTE = 0x30
_AND = 0x54
_JUMP_IF_EQUAL = 0x15
_RETURN = 0x06

_DROP_SYN = b"".join(
    struct.pack("HBBI", code, if_true, if_false, value)
    for code, if_true, if_false, value in [
        (_LOAD_BYTE, 0, 0, _FLAGS),
        (_AND, 0, 0, _SYN | _ACK),
        (_JUMP_IF_EQUAL, 0, 1, _SYN),
        (_RETURN, 0, 0, 0),
        (_RETURN, 0, 0, 0xFFFFFFFF),
    ]
)


def turn_away(sock: socket.socket) -> None:
    """Let no new connection come to a listening TCP socket; those that are there stay. Twice is the same as once.

    Raises:
        OSError: the kernel does not take the filter (ENOMEM, or EPERM where somebody has locked another one).
    """
    program = ctypes.create_string_buffer(_DROP_SYN, len(_DROP_SYN))
    sock.setsockopt(
        socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(_DROP_SYN) // 8, ctypes.addressof(program))
    )


def turns_away(sock: socket.socket) -> bool:
    """Has the socket a filter? Asked of the kernel: it is shared by all duplicates, and outlives whoever set it."""
    return bool(sock.getsockopt(socket.SOL_SOCKET, _SO_GET_FILTER, 1024))


def admit(sock: socket.socket) -> None:
    """Let connections come again. Nothing happens where they were not turned away."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
    except FileNotFoundError:
        return  # there was no filter


def waiting(sock: socket.socket) -> bool:
    """Does a connection wait to be accepted? Asks only: whoever is faster accepts it."""
    if sock.fileno() < 0:
        return False
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))
