"""One socket that is listened on, with what belongs to it: its address, its section, its file, its doors."""

from __future__ import annotations

import contextlib
import os
import socket

from trapeze import doorstep, tcpsockets
from trapeze.socketfile import SocketFile
from trapeze.spec import SocketSpec
from trapeze.unixsockets import conform

__all__ = ["ListenSocket"]


class ListenSocket:
    """One socket that is listened on. Its file description is shared with every worker that inherits it."""

    __slots__ = ("address", "borrowed", "fd", "file", "name", "pending", "reserved", "slot", "sock", "spec")

    def __init__(
        self,
        name: str,
        address: str,
        sock: socket.socket,
        spec: SocketSpec,
        file: SocketFile | None = None,
        *,
        borrowed: bool = False,
        reserved: bool = False,
        pending: bool = False,
        slot: int | None = None,
    ) -> None:
        """Wrap a socket that listens; `file` is the one we made for it, which is ours to remove."""
        self.name = name
        self.address = address
        """As text, with the real port; `parse` reads it again, except where the socket was adopted."""
        self.sock = sock
        self.fd = sock.fileno()
        self.spec = spec
        self.file = file
        self.borrowed = borrowed
        """It was passed to us (fd://, systemd:): another process holds it too, and goes on when we have gone."""
        self.reserved = reserved
        """It only keeps the address, and nobody accepts on it: each worker gets one of its own (`reuseport`)."""
        self.slot = slot
        """The slot whose workers accept on it (`listen = "per-worker"`); None: all do."""
        self.pending = pending
        """It has not taken its path, or the file not its permissions: that comes with who accepts on it (`take`)."""

    def __repr__(self) -> str:
        return f"<ListenSocket {self.name} {self.address} fd {self.fd}>"

    @property
    def backlog(self) -> int:
        """Length of the listen queue; hand it to every server, since the last one to call listen() wins."""
        return self.spec.backlog

    @property
    def intact(self) -> bool:
        """Do clients still find it? False when somebody has removed or replaced our Unix socket file."""
        return self.file is None or self.file.intact

    def assert_nonblocking(self) -> bool:
        """Set O_NONBLOCK again if a server that shares the file description has cleared it; return whether it had."""
        if not os.get_blocking(self.fd):
            return False
        os.set_blocking(self.fd, False)
        return True

    @property
    def identity(self) -> int:
        """What it has in common with its duplicates: they are one socket with one queue."""
        return os.fstat(self.fd).st_ino

    @property
    def doors_closed(self) -> bool:
        """Is nobody let in any more?"""
        if self.sock.fileno() < 0:
            return True
        if self.sock.family == socket.AF_UNIX:
            return not self.intact
        return doorstep.turns_away(self.sock)

    def close_doors(self) -> bool:
        """Let no new connection come; those that wait stay, and can be accepted. Return whether that could be done.

        Not with a borrowed socket: who lent it to us goes on listening, and what waits in the queue waits for the next
        who accepts. And not with an abstract Unix socket, which has no file that could be hidden.
        """
        if self.borrowed or self.sock.fileno() < 0:
            return False
        if self.file is not None:
            self.file.hide()
        elif self.sock.family != socket.AF_UNIX:
            with contextlib.suppress(OSError):
                doorstep.turn_away(self.sock)
        return self.doors_closed

    def open_doors(self) -> None:
        """Let connections come again. Nothing happens where the doors are open.

        Raises:
            BindError: something else has taken the path of our Unix socket meanwhile.
        """
        if self.file is not None:
            self.file.show()
        elif self.sock.family != socket.AF_UNIX and not self.borrowed:
            doorstep.admit(self.sock)

    @property
    def waiting(self) -> bool:
        """Does a connection wait in its queue?"""
        return doorstep.waiting(self.sock)

    def take(self) -> None:
        """Let clients find it as its section says, if that has still to be done.

        Raises:
            BindError: it cannot be done; it may be tried again.
        """
        if self.pending:
            self.assert_section()
            self.pending = False

    def assert_section(self) -> None:
        """Be at the path, with the owner, the mode and the backlog that the section says.

        Raises:
            BindError: that cannot be done.
        """
        if self.file is not None and self.file.private:
            self.file.appear()
        elif self.file is not None:
            conform(self.file, self.spec)
        if not self.reserved:
            self.sock.listen(self.spec.backlog)

    def beside(self, *, listening: bool) -> ListenSocket:
        """For one that is reserved: another on its address, for one worker.

        Args:
            listening: from now on; else it is for the worker to say when.

        Raises:
            OSError: it cannot be made.
        """
        sock = tcpsockets.beside(self.sock, dual_stack=self.spec.dual_stack)
        if listening:
            sock.listen(self.spec.backlog)
        return ListenSocket(self.name, self.address, sock, self.spec)

    def unlink(self) -> None:
        """Remove our Unix socket file, if it is still ours, so that no new client comes. Safe to call twice."""
        if self.file is not None:
            self.file.unlink()

    def close(self) -> None:
        """Remove our Unix socket file if it is still ours and nobody else's, and close. Safe to call twice."""
        if self.file is not None and self.sock.fileno() >= 0:
            self.file.release()
        self.sock.close()
