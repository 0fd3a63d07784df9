"""Listening sockets: bind, adopt, take over. They are bound before anything starts and outlive generations."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Mapping, Sequence

from trapeze import slots, tcpsockets
from trapeze.addresses import Abstract, Address, Inherited, Systemd, Tcp, Unix, parse, problems
from trapeze.errors import BindError
from trapeze.holders import cannot_listen
from trapeze.listensocket import ListenSocket
from trapeze.spec import SocketSpec
from trapeze.unixsockets import as_made, listen_abstract, listen_unix

__all__ = ["ListenSocket", "open_sockets", "parse", "systemd_sockets"]

FIRST_FD = 3
"""Where systemd's descriptors begin (SD_LISTEN_FDS_START)."""


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
    later: bool = False,
) -> list[ListenSocket]:
    """Open every address of a section: non-blocking, close-on-exec, listening (or reserved, with `reuseport`).

    Args:
        name: of the section.
        spec: the section.
        systemd: what `systemd_sockets` found.
        replaces: sockets of ours whose address may be taken over although they are alive (a mode or a name that
            changed): it stays the same socket under another descriptor.
        keep: sockets of ours that are returned as they are if the section has their address.
        later: no Unix path is taken, and no file gets other permissions, before `take` is called.

    Raises:
        BindError: one of them cannot be had; those that were opened before it are closed again.
    """
    wrong = problems(spec) or [*slots.problems(spec)]
    if wrong:
        raise BindError(f"socket {name}: {'; '.join(wrong)}")
    opened: list[ListenSocket] = []
    kept = {each.address: each for each in keep}
    try:
        for slot, address in slots.addresses_of(spec):
            if str(address) in kept:
                opened.append(kept[str(address)])
            else:
                before = len(opened)
                _open(name, spec, address, systemd, replaces, opened, later)
                for each in opened[before:]:
                    each.slot = slot
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
    later: bool,
) -> None:
    match address:
        case Tcp():
            opened.append(_open_tcp(name, spec, address, replaces))
        case Unix():
            opened.append(_open_unix(name, spec, address, replaces, later))
            if not later:
                opened[-1].take()
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


def _open_unix(
    name: str, spec: SocketSpec, address: Unix, replaces: Sequence[ListenSocket], later: bool
) -> ListenSocket:
    path = os.path.abspath(address.path)
    for each in replaces:
        if each.file is not None and each.file.path == path and each.file.intact:
            as_made(address, spec)  # what cannot be had is said now
            return ListenSocket(name, f"unix:{path}", each.sock.dup(), spec, each.file.share(), pending=True)
    sock, file = listen_unix(address, spec, later=later)
    return ListenSocket(name, f"unix:{file.path}", sock, spec, file, pending=later)


def _again(where: object, spec: SocketSpec, replaces: Sequence[ListenSocket]) -> tuple[socket.socket, bool] | None:
    """The socket of ours that is bound there, under another descriptor: the kernel would not bind a second one.

    And whether it is borrowed.
    """
    for each in replaces:
        if each.file is None and each.sock.getsockname() == where and each.spec.dual_stack == spec.dual_stack:
            if each.reserved != spec.reuses_port:
                reason = f'{each.address}: listen = "reuseport" cannot come or go while workers accept there'
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
        return ListenSocket(name, _text_of(held[0]), held[0], spec, borrowed=held[1], reserved=spec.reuses_port)
    try:
        if spec.reuses_port:
            sock = tcpsockets.reserve(family, where, dual_stack=spec.dual_stack)
        else:
            sock = tcpsockets.bound(family, where, dual_stack=spec.dual_stack)
    except OSError as error:
        raise tcpsockets.cannot_bind(address, where, error) from None
    try:
        if not spec.reuses_port:
            _prepare(sock, spec)
    except OSError as error:
        sock.close()
        raise tcpsockets.cannot_bind(address, where, error) from None
    return ListenSocket(name, _text_of(sock), sock, spec, reserved=spec.reuses_port)


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
