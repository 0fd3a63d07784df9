"""Listening sockets: bind, adopt, hand on, clean up. They are bound before anything starts and outlive generations."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Mapping, Sequence

from trapeze import doorstep, tcpsockets
from trapeze.addresses import Abstract, Address, Inherited, Systemd, Tcp, Unix, parse, problems
from trapeze.errors import BindError
from trapeze.holders import cannot_listen
from trapeze.socketfile import SocketFile
from trapeze.spec import SocketSpec
from trapeze.unixsockets import listen_abstract, listen_unix

__all__ = ["ListenSocket", "open_sockets", "parse", "systemd_sockets"]

FIRST_FD = 3
"""Where systemd's descriptors begin (SD_LISTEN_FDS_START)."""


class ListenSocket:
    """One socket that is listened on. Its file description is shared with every worker that inherits it."""

    __slots__ = ("address", "borrowed", "fd", "file", "name", "reserved", "sock", "spec")

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
        """It only keeps the address (`reuse_port`), and nobody accepts on it: each worker gets one of its own."""

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
        """Remove our Unix socket file if it is still ours, and close. Safe to call twice."""
        self.unlink()
        self.sock.close()


def systemd_sockets(environ: Mapping[str, str], pid: int) -> dict[str, list[int]]:
    """Return the descriptors that were passed to process `pid` by LISTEN_FDS, by name; empty if there are none.

    Without LISTEN_FDNAMES all are called "unknown", as in systemd's own library.
    """
    count = environ.get("LISTEN_FDS", "")
    if environ.get("LISTEN_PID") != str(pid) or not (count.isascii() and count.isdigit()):
        return {}
    names = environ["LISTEN_FDNAMES"].split(":") if environ.get("LISTEN_FDNAMES") else []
    found: dict[str, list[int]] = {}
    for number in range(int(count)):
        name = names[number] if number < len(names) else ""
        found.setdefault(name or "unknown", []).append(FIRST_FD + number)
    return found


def open_sockets(
    name: str,
    spec: SocketSpec,
    *,
    systemd: Mapping[str, Sequence[int]],
    replaces: Sequence[ListenSocket] = (),
    keep: Sequence[ListenSocket] = (),
) -> list[ListenSocket]:
    """Open every address of a section: non-blocking, close-on-exec, listening (or reserved, with `reuse_port`).

    Args:
        name: of the section.
        spec: the section.
        systemd: what `systemd_sockets` found.
        replaces: sockets of ours whose address may be taken over although they are alive (a mode or a name that
            changed): a new Unix socket gets the path, a TCP port stays the same socket under another descriptor.
        keep: sockets of ours that are returned as they are if the section has their address.

    Raises:
        BindError: one of them cannot be had; those that were opened before it are closed again.
    """
    wrong = problems(spec)
    if wrong:
        raise BindError(f"socket {name}: {'; '.join(wrong)}")
    opened: list[ListenSocket] = []
    kept = {each.address: each for each in keep}
    try:
        for text in spec.addresses:
            address = parse(text)
            if str(address) in kept:
                opened.append(kept[str(address)])
            else:
                _open(name, spec, address, systemd, replaces, opened)
    except BaseException:
        for each in opened:
            if each not in keep:
                each.close()
        raise
    return opened


def _open(
    name: str,
    spec: SocketSpec,
    address: Address,
    systemd: Mapping[str, Sequence[int]],
    replaces: Sequence[ListenSocket],
    opened: list[ListenSocket],
) -> None:
    match address:
        case Tcp():
            opened.append(_open_tcp(name, spec, address, replaces))
        case Unix():
            ours = {each.file.inode for each in replaces if each.file is not None}
            sock, file = listen_unix(address, spec, ours)
            opened.append(ListenSocket(name, f"unix:{file.path}", sock, spec, file))
        case Abstract():
            held = _again(_abstract_name(address), spec, replaces)
            if held is not None:
                opened.append(ListenSocket(name, str(address), held[0], spec, borrowed=held[1]))
            else:
                opened.append(ListenSocket(name, str(address), listen_abstract(address, spec.backlog), spec))
        case Inherited():
            opened.append(_adopt(name, spec, address, address.fd, replaces))
        case Systemd():
            if address.name not in systemd:
                passed = ", ".join(sorted(systemd)) or "none"
                raise BindError(
                    f"cannot listen on {address}: no socket of that name was passed (passed: {passed})",
                    hint="set FileDescriptorName= in the .socket unit and start trapeze by the service it belongs to",
                )
            for fd in systemd[address.name]:
                opened.append(_adopt(name, spec, address, fd, replaces))


def _again(where: object, spec: SocketSpec, replaces: Sequence[ListenSocket]) -> tuple[socket.socket, bool] | None:
    """The socket of ours that is bound there, under another descriptor: the kernel would not bind a second one.

    And whether it is borrowed.
    """
    for each in replaces:
        if each.file is None and each.sock.getsockname() == where and each.spec.dual_stack == spec.dual_stack:
            if each.reserved != spec.reuse_port:
                reason = f"cannot listen on {each.address}: reuse_port cannot change while workers accept there"
                raise BindError(reason, hint="restart the supervisor, or take another address")
            sock = each.sock.dup()
            if not each.reserved:
                _prepare(sock, spec, again=True)
            return sock, each.borrowed
    return None


def _abstract_name(address: Abstract) -> bytes:
    return b"\0" + address.name.encode("utf-8", "surrogateescape")


def _open_tcp(name: str, spec: SocketSpec, address: Tcp, replaces: Sequence[ListenSocket]) -> ListenSocket:
    family, where = tcpsockets.resolve(address)
    held = _again(where, spec, replaces)
    if held is not None:
        return ListenSocket(name, _text_of(held[0]), held[0], spec, borrowed=held[1], reserved=spec.reuse_port)
    try:
        if spec.reuse_port:
            sock = tcpsockets.reserve(family, where, dual_stack=spec.dual_stack)
        else:
            sock = tcpsockets.bound(family, where, dual_stack=spec.dual_stack)
    except OSError as error:
        raise tcpsockets.cannot_bind(address, where, error) from None
    try:
        if not spec.reuse_port:
            _prepare(sock, spec)
    except OSError as error:
        sock.close()
        raise tcpsockets.cannot_bind(address, where, error) from None
    return ListenSocket(name, _text_of(sock), sock, spec, reserved=spec.reuse_port)


def _prepare(sock: socket.socket, spec: SocketSpec, *, again: bool = False) -> None:
    """Make it listen as every holder expects it: these flags are shared by all processes that inherit it.

    `again`: it is in use already. Then O_NONBLOCK stays as it is: a command may have cleared it, and waits in accept().
    """
    if not again:
        sock.setblocking(False)
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        # Accepted sockets inherit it; asyncio and uvloop set it by themselves only in some cases.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.listen(spec.backlog)


def _text_of(sock: socket.socket) -> str:
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        if isinstance(name, bytes):
            return f"unix:@{name[1:].decode('utf-8', 'backslashreplace')}"
        return f"unix:{name}"
    host = name[0]
    if sock.family == socket.AF_INET6 and "%" not in host and name[3]:
        with contextlib.suppress(OSError):
            host = f"{host}%{socket.if_indextoname(name[3])}"
    return str(Tcp(host, name[1], sock.family == socket.AF_INET6))


def _adopt(
    name: str, spec: SocketSpec, address: Inherited | Systemd, fd: int, replaces: Sequence[ListenSocket]
) -> ListenSocket:
    """Take over a descriptor. A duplicate is kept: the number that was given may be closed by whoever gave it."""
    which = f"{address} (descriptor {fd})" if isinstance(address, Systemd) else str(address)
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            raise BindError(f"cannot listen on {which}: it is not a socket")
        sock = socket.socket(fileno=os.dup(fd))
    except OSError as error:
        hint = f"start trapeze with descriptor {fd} open, as in: systemfd, systemd or a shell's {fd}<"
        raise cannot_listen(which, error, hint=hint if error.errno == errno.EBADF else "") from None
    try:
        _check_adopted(sock, which)
        inode = os.fstat(fd).st_ino
        _prepare(sock, spec, again=any(each.identity == inode for each in replaces if each.sock.fileno() >= 0))
        os.set_inheritable(fd, False)
        return ListenSocket(name, _text_of(sock), sock, spec, borrowed=True)
    except OSError as error:
        sock.close()
        raise cannot_listen(which, error) from None
    except BindError:
        sock.close()
        raise


def _check_adopted(sock: socket.socket, which: str) -> None:
    if sock.family not in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
        raise BindError(f"cannot listen on {which}: it is a socket of family {sock.family}, not TCP or Unix")
    if sock.type != socket.SOCK_STREAM:
        raise BindError(f"cannot listen on {which}: it is not a stream socket")
    if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise BindError(f"cannot listen on {which}: the socket is not listening")
