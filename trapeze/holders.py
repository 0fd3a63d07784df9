"""Why can an address not be had, and who holds it? Read from /proc: what cannot be read is left unsaid."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import struct
import sys
from collections.abc import Iterator

from trapeze.errors import BindError
from trapeze.keeping import stat

__all__ = ["cannot_listen", "describe", "holder_of_abstract", "holder_of_tcp", "peer_of"]

_LISTEN = "0A"


def holder_of_tcp(host: str, port: int) -> str:
    """Return "NAME pid N" of a process that listens on this port of this numeric address, or ""."""
    return describe(_owner_of({inode for address, inode in _listeners(port) if _overlap(address, host)}))


def holder_of_abstract(name: str) -> str:
    """Return "NAME pid N" of a process that holds this abstract name, or ""."""
    inodes = set()
    for fields in _lines("/proc/net/unix"):
        if len(fields) >= 8 and " ".join(fields[7:]) == f"@{name}":
            inodes.add(fields[6])
    return describe(_owner_of(inodes))


def peer_of(connection: socket.socket) -> str:
    """Return "NAME pid N" of the process that called listen() at the other end of a Unix connection, or "".

    Servers call it again in each worker, and the kernel remembers the last: of ours the supervisor is named.
    """
    pid = 0
    with contextlib.suppress(OSError):
        pid = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
    return describe(_supervisor_of(pid) or pid)


def _supervisor_of(pid: int) -> int:
    """The supervisor that a process belongs to, by the mark in its environment; 0 if it has none, or that has ended."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            found = re.search(rb"(?:^|\0)TRAPEZE_SUPERVISOR=(\d+)\.(\d+)(?:\0|$)", file.read())
    except OSError:
        return 0
    seen = stat(int(found[1])) if found else None
    return seen.pid if seen is not None and found is not None and seen.start == int(found[2]) else 0


def describe(pid: int) -> str:
    """Return "NAME pid N", just "pid N" when its name cannot be read, "" for pid 0 (another pid namespace)."""
    if not pid:
        return ""
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="backslashreplace") as file:
            return f"{file.read().strip()} pid {pid}"
    except OSError:
        return f"pid {pid}"


def _lines(path: str) -> Iterator[list[str]]:
    try:
        with open(path, encoding="utf-8", errors="backslashreplace") as file:
            next(file, None)
            for line in file:
                yield line.split()
    except OSError:
        return


def _listeners(port: int) -> Iterator[tuple[str, str]]:
    """Yield (address, inode) of each listening TCP socket on a port."""
    for path in ("/proc/net/tcp", "/proc/net/tcp6"):
        for fields in _lines(path):
            if len(fields) < 10 or fields[3] != _LISTEN:
                continue
            address, _, hex_port = fields[1].partition(":")
            if int(hex_port, 16) == port:
                yield _address(address), fields[9]


def _address(text: str) -> str:
    """Turn /proc's form of an address (32-bit words in host order) into the usual one."""
    words = struct.unpack(f">{len(text) // 8}I", bytes.fromhex(text))
    packed = struct.pack(f"{'<' if sys.byteorder == 'little' else '>'}{len(words)}I", *words)
    return socket.inet_ntop(socket.AF_INET if len(words) == 1 else socket.AF_INET6, packed)


def _overlap(one: str, other: str) -> bool:
    """Would these two numeric addresses collide on a port? A wildcard collides with all, "::" with IPv4 if dual."""
    other = other.partition("%")[0]
    wild = ("::", "0.0.0.0")
    return one in wild or other in wild or one == other or one == f"::ffff:{other}"


def _owner_of(inodes: set[str]) -> int:
    """Return the lowest pid that has one of these sockets open, 0 if there is none that we may see."""
    if not inodes:
        return 0
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for pid in sorted(int(entry) for entry in _list("/proc") if entry.isdigit()):
        for fd in _list(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{pid}/fd/{fd}") in wanted:
                    return pid
    return 0


def _list(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []


def cannot_listen(address: object, error: OSError, holder: str = "", hint: str = "") -> BindError:
    """Return the error that names the address, the errno in words and by its symbol, and who holds it."""
    symbol = errno.errorcode.get(error.errno or 0, "")
    words = (error.strerror or str(error)).lower()
    text = f"cannot listen on {address}: {words}" + (f" ({symbol})" if symbol else "")
    return BindError(text + (f", held by {holder}" if holder else ""), hint=hint)
