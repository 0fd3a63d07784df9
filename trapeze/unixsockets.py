"""Unix sockets: bound under a private name, with owner and mode, and only then moved to where clients look."""

from __future__ import annotations

import errno
import grp
import os
import pwd
import socket

from trapeze import holders
from trapeze.addresses import SUN_PATH_MAX, Abstract, Unix
from trapeze.errors import BindError
from trapeze.holders import cannot_listen
from trapeze.socketfile import Directory, SocketFile, discard, is_stale, permit, place
from trapeze.spec import SocketSpec

__all__ = ["listen_abstract", "listen_unix"]

DEFAULT_MODE = 0o660
"""Permissions of a Unix socket when the file says nothing: connecting needs the right to write."""


def listen_abstract(address: Abstract, backlog: int) -> socket.socket:
    """Return a socket that listens on an abstract name.

    Raises:
        BindError: the name is taken.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.bind(b"\0" + address.name.encode("utf-8", "surrogateescape"))
        sock.listen(backlog)
    except OSError as error:
        sock.close()
        holder = holders.holder_of_abstract(address.name) if error.errno == errno.EADDRINUSE else ""
        raise cannot_listen(address, error, holder) from None
    return sock


def listen_unix(address: Unix, spec: SocketSpec, ours: set[tuple[int, int]]) -> tuple[socket.socket, SocketFile]:
    """Return a socket that listens on a path, and its file.

    Args:
        address: where; a relative path is one of the current directory.
        spec: mode, owner, group and backlog.
        ours: inodes of live sockets that may be replaced.

    Raises:
        BindError: something else is there, a directory is missing, the owner is unknown...
    """
    mode = DEFAULT_MODE if spec.mode is None else int(spec.mode, 8)
    uid, gid = _owner(address, spec.owner), _group(address, spec.group)
    path = os.path.abspath(address.path)
    directory, base = os.path.split(path)
    try:
        parent = Directory(directory)
    except OSError as error:
        hint = f"mkdir -p {directory}" if error.errno == errno.ENOENT else ""
        raise BindError(f"cannot listen on {address}: directory {directory}: {_words(error)}", hint=hint) from None
    with parent:
        is_stale(address, path, ours)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            private, inode = _bind_beside(sock, parent, base, mode, (uid, gid), spec.backlog)
            try:
                place(address, parent, private, base, ours)
            except BaseException:
                discard(parent, private)
                raise
        except OSError as error:
            sock.close()
            raise cannot_listen(address, error, hint=_unix_hint(error, directory)) from None
        except BindError:
            sock.close()
            raise
    return sock, SocketFile(path, inode)


def _bind_beside(
    sock: socket.socket, parent: Directory, base: str, mode: int, owner: tuple[int, int], backlog: int
) -> tuple[str, tuple[int, int]]:
    """Bind under a private name, give it owner and mode, and listen; return the name and the inode.

    Only then it is moved into place (`place`): clients find either what was there before or a socket that is ready,
    never one with the wrong permissions.
    """
    private = f".{base[:64]}.{os.urandom(4).hex()}"
    where = os.path.join(parent.path, private)
    if len(os.fsencode(where)) > SUN_PATH_MAX:
        where = f"/proc/self/fd/{parent.fd}/{private}"
    before = os.umask(0o177)
    try:
        sock.bind(where)
    finally:
        os.umask(before)
    try:
        inode = permit(parent, private, mode, owner)
        sock.setblocking(False)
        sock.listen(backlog)
    except BaseException:
        discard(parent, private)
        raise
    return private, inode


def _words(error: OSError) -> str:
    return f"{(error.strerror or str(error)).lower()} ({errno.errorcode.get(error.errno or 0, '?')})"


def _unix_hint(error: OSError, directory: str) -> str:
    if error.errno == errno.EACCES:
        return f"the directory {directory} must be writable by uid {os.geteuid()}"
    if error.errno == errno.EPERM:
        return "only root may give a socket to another owner, or to a group one is not in"
    return ""


def _owner(address: Unix, user: str | None) -> int:
    if user is None:
        return -1
    if user.isascii() and user.isdigit():
        return int(user)
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        raise BindError(f"cannot listen on {address}: there is no user {user}") from None


def _group(address: Unix, group: str | None) -> int:
    if group is None:
        return -1
    if group.isascii() and group.isdigit():
        return int(group)
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise BindError(f"cannot listen on {address}: there is no group {group}") from None
