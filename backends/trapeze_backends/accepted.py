"""The connections that a server has accepted, as the kernel sees them: for servers that do not tell which are idle.

They are found among the descriptors of the process: an accepted socket bears its listener's own name. Whether part of a
request has come is told by the kernel's clocks (TCP), or by an epoll of our own: whatever arrives makes an edge there,
also when the server has read it before we look (Unix sockets, and only from the moment in which we began to watch).
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import stat
import struct
import termios

from trapeze_backends.endless import unread_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

__all__ = ["UNSURE", "Accepted", "Look"]

UNSURE = 1.0
"""Seconds that a connection stays longer which only seems to be idle, see `Look`."""


class Look:
    """What was seen: numbers of connections.

    Attributes:
        asking: bytes wait to be read, or have come since the last answer began: a request, or a part of one.
        sending: of an answer not everything has reached the client's machine.
        unsure: idle, or half a request has come and nothing of it since we watch: TCP's clocks tick only each few
            milliseconds, within which the last answer left and the last bytes came; Unix sockets have none.
        idle: none of these.
    """

    __slots__ = ("asking", "idle", "sending", "unsure")

    def __init__(self) -> None:
        self.asking = self.sending = self.unsure = self.idle = 0

    @property
    def total(self) -> int:
        """All there are."""
        return self.asking + self.sending + self.unsure + self.idle


class Accepted:
    """The connections accepted from one listening socket.

    Args:
        listener: it; only its name is kept.
    """

    def __init__(self, listener: socket.socket) -> None:
        self._family = listener.family
        self._name: Any = listener.getsockname()
        self._epoll: select.epoll | None = None
        self._sent: dict[tuple[int, int], int] = {}
        """Unix, while we watch: by descriptor and inode, how much was on its way to the client at the last look."""
        self._active: set[tuple[int, int]] = set()

    def watch(self) -> None:
        """From now on note what arrives on Unix connections, of which the kernel keeps no clocks."""
        if self._family == socket.AF_UNIX:
            self._epoll = select.epoll()
            self._follow()

    def close(self) -> None:
        """Watch no more."""
        if self._epoll is not None:
            self._epoll.close()
            self._epoll = None

    def inodes(self) -> frozenset[int]:
        """What tells these connections from others: a number for each."""
        return frozenset(inode for _, inode, _ in self._each())

    def look(self, *, end_idle: bool = False, end_unsure: bool = False) -> Look:
        """Return what they are doing.

        Args:
            end_idle: end the reading side of those that are idle, which a server takes for the end of the connection.
                Not for servers that take it for one in the middle of an answer which they make bit by bit.
            end_unsure: likewise.
        """
        if self._epoll is not None:
            self._follow()
        found = Look()
        for fd, inode, peer in self._each():
            asks = self._asks(peer, (fd, inode))
            if asks:
                found.asking += 1
            elif _on_its_way(peer):
                found.sending += 1
            elif asks is None:
                found.unsure += 1
                if end_unsure:
                    _end_reading(peer)
            else:
                found.idle += 1
                if end_idle:
                    _end_reading(peer)
        return found

    def _each(self) -> Iterator[tuple[int, int, socket.socket]]:
        """Yield descriptor, inode, and a duplicate that is closed afterwards: kept, it would keep the client waiting
        for the end that the server has made."""
        for entry in os.listdir("/proc/self/fd"):
            fd = int(entry)
            try:
                found = os.fstat(fd)
                if not stat.S_ISSOCK(found.st_mode):
                    continue
                peer = socket.socket(fileno=os.dup(fd))
            except OSError:
                continue  # it was closed just now
            with peer:
                if self._is_ours(peer):
                    yield fd, found.st_ino, peer

    def _is_ours(self, peer: socket.socket) -> bool:
        if peer.family != self._family or peer.type != socket.SOCK_STREAM:
            return False
        try:
            peer.getpeername()
            own = peer.getsockname()
        except OSError:
            return False  # not connected: a listener, or its client has gone
        return bool(own[1] == self._name[1] if isinstance(self._name, tuple) else own == self._name)

    # ---- has anything of a request come? ----

    def _asks(self, peer: socket.socket, key: tuple[int, int]) -> bool | None:
        """None: who knows."""
        if _unread(peer):
            return True
        return (key in self._active or None) if self._family == socket.AF_UNIX else _has_begun(peer)

    def _follow(self) -> None:
        """Take in what has happened since the last time, and watch those that are new."""
        assert self._epoll is not None
        live = {fd: (inode, _on_its_way(peer)) for fd, inode, peer in self._each()}
        for fd, (inode, _) in live.items():
            if (fd, inode) not in self._sent:
                try:
                    # Its own number: the registration goes when the server closes it.
                    self._epoll.register(fd, select.EPOLLIN | select.EPOLLOUT | select.EPOLLET)
                except OSError:
                    continue
        for fd, _ in self._epoll.poll(0):
            key = (fd, live[fd][0]) if fd in live else (fd, 0)
            # The first edge is that of the registration, and one is made when the client reads what is there for it.
            if self._sent.get(key) == 0:
                self._active.add(key)
        self._sent = {(fd, inode): sent for fd, (inode, sent) in live.items()}


def _unread(peer: socket.socket) -> int:
    try:
        return unread_bytes(peer.fileno())
    except OSError:
        return 0


def _on_its_way(peer: socket.socket) -> int:
    """Bytes that were sent and have not arrived."""
    try:
        return int(struct.unpack("i", fcntl.ioctl(peer.fileno(), termios.TIOCOUTQ, b"\0\0\0\0"))[0])
    except OSError:
        return 0


def _has_begun(peer: socket.socket) -> bool | None:
    """TCP: has something come since the last answer began? None: in the same moment, as far as the kernel knows."""
    try:
        info = peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 136)
    except OSError:
        return False
    sent_ago, received_ago = struct.unpack_from("I4xI", info, 8 + 4 * 9)  # milliseconds
    acknowledged, received = struct.unpack_from("QQ", info, 120)
    if acknowledged <= 1:  # the handshake counts as one byte
        return bool(received)
    return None if received_ago == sent_ago else bool(received_ago < sent_ago)


def _end_reading(peer: socket.socket) -> None:
    try:
        peer.shutdown(socket.SHUT_RD)
    except OSError:
        return  # it ended by itself
