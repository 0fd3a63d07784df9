"""TCP sockets: look the address up, bind, reserve.

With `listen = "reuseport"` each worker gets a socket of its own on the address, among which the kernel deals out
connections.
The address is *reserved* by a socket that is bound and never listens. Beside it others can be bound, by us alone
(SO_REUSEPORT, same user), one for each worker: bound here, before the worker becomes another user, and handed to it as
any socket is. It listens once its worker is ready: nobody is to wait for an app that is still being imported, or that
fails.
"""

from __future__ import annotations

import errno
import socket

from trapeze import holders
from trapeze.addresses import Tcp
from trapeze.errors import BindError

__all__ = ["beside", "bound", "cannot_bind", "migrates", "reserve", "resolve"]

_MIGRATE = "/proc/sys/net/ipv4/tcp_migrate_req"


def resolve(address: Tcp) -> tuple[int, tuple[object, ...]]:
    """Return family and numeric address; of a name's addresses the first IPv4 one is taken, else the first.

    Raises:
        BindError: the name is not known.
    """
    family = socket.AF_INET6 if address.v6 else socket.AF_UNSPEC
    try:
        # As bytes (`addresses` takes no other names): for a str, Python imports the tables of international names.
        host = address.host.encode("ascii")
        found = socket.getaddrinfo(host, address.port, family, socket.SOCK_STREAM, 0, socket.AI_PASSIVE)
    except socket.gaierror as error:
        reason = (error.strerror or str(error)).lower()
        raise BindError(
            f"cannot listen on {address}: {address.host} cannot be resolved: {reason}",
            hint="use a numeric address: a name may be out of reach when the machine starts",
        ) from None
    best = next((each for each in found if each[0] == socket.AF_INET), found[0])
    return best[0], best[4]


def bound(family: int, where: tuple[object, ...], *, dual_stack: bool, share: bool = False) -> socket.socket:
    """Bind a socket.

    Args:
        family: of the address.
        where: the address, numeric.
        dual_stack: IPv6 takes IPv4 connections too.
        share: with others of ours, which say so too (SO_REUSEPORT).

    Raises:
        OSError: it cannot be made or bound.
    """
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if share:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if dual_stack else 1)
        sock.bind(where)
    except BaseException:
        sock.close()
        raise
    return sock


def reserve(family: int, where: tuple[object, ...], *, dual_stack: bool) -> socket.socket:
    """Bind a socket that keeps the address for us, and never listens.

    Raises:
        OSError: the address cannot be had; EADDRINUSE also where somebody would share it with us.
    """
    # Bound as anybody would: another of our user's programs with SO_REUSEPORT would let us in, and get our clients.
    with bound(family, where, dual_stack=dual_stack) as first:
        where = first.getsockname()
    sock = bound(family, where, dual_stack=dual_stack, share=True)
    # It was needed to bind where connections of an earlier run are not forgotten yet. Now it would let others bind, as
    # long as none of our workers listens.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    sock.setblocking(False)
    return sock


def beside(reserved: socket.socket, *, dual_stack: bool) -> socket.socket:
    """Bind another socket to a reserved address.

    Raises:
        OSError: it cannot be made (out of descriptors).
    """
    sock = bound(reserved.family, reserved.getsockname(), dual_stack=dual_stack, share=True)
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def migrates() -> bool:
    """Does the kernel hand on what waits in the queue of a socket that is closed to the others on its address?"""
    try:
        with open(_MIGRATE, encoding="ascii") as file:
            return file.read().strip() == "1"
    except OSError:
        return False  # a kernel before 5.14, or a container that does not show it


def cannot_bind(address: Tcp, where: tuple[object, ...], error: OSError) -> BindError:
    """Return the error that says why, and who holds the address."""
    holder = holders.holder_of_tcp(str(where[0]), address.port) if error.errno == errno.EADDRINUSE else ""
    return holders.cannot_listen(address, error, holder, _hint(error, address))


def _hint(error: OSError, address: Tcp) -> str:
    if error.errno in (errno.EACCES, errno.EPERM) and address.port < 1024:
        return "ports below 1024 need CAP_NET_BIND_SERVICE, or a socket passed by systemd"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"no interface of this machine has the address {address.host}"
    return ""
