"""Unix sockets: bound under a private name, with owner and mode, and only then moved to where clients look."""

from __future__ import annotations

import errno
import grp
import os
import pwd
import socket
import stat

from trapeze import holders
from trapeze.addresses import SUN_PATH_MAX, Abstract, Unix
from trapeze.errors import BindError
from trapeze.holders import cannot_listen
from trapeze.socketfile import Directory, SocketFile, discard, inode_of, is_stale, permit, place, set_aside
from trapeze.spec import SocketSpec

__all__ = ["as_made", "conform", "listen_abstract", "listen_unix"]

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


def listen_unix(address: Unix, spec: SocketSpec, *, later: bool = False) -> tuple[socket.socket, SocketFile]:
    """Return a socket that listens on a path, and its file.

    Args:
        address: where; a relative path is one of the current directory.
        spec: mode, owner, group and backlog.
        later: it keeps its private name until it is told to appear.

    Raises:
        BindError: something else is there, a directory is missing, the owner is unknown...
    """
    path = os.path.abspath(address.path)
    base = os.path.basename(path)
    rights = _rights(address, spec)
    with _directory_of(address) as parent:
        is_stale(address, path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            private, found = _bind_beside(sock, parent, base, rights, spec.backlog)
            try:
                if later:
                    private = set_aside(parent, private, base)
                else:
                    place(address, parent, private, base)
            except BaseException:
                discard(parent, private)
                raise
        except OSError as error:
            sock.close()
            raise cannot_listen(address, error, hint=_unix_hint(error, parent.path)) from None
        except BindError:
            sock.close()
            raise
    return sock, SocketFile(path, inode_of(found), private if later else "")


def as_made(address: Unix, spec: SocketSpec) -> os.stat_result:
    """What a socket file of this section would be like: one is made, looked at and removed.

    Raises:
        BindError: it cannot be made.
    """
    rights = _rights(address, spec)
    with _directory_of(address) as parent, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            private, found = _bind_beside(sock, parent, os.path.basename(address.path), rights, 1)
        except OSError as error:
            raise cannot_listen(address, error, hint=_unix_hint(error, parent.path)) from None
        discard(parent, private)
    return found


def conform(file: SocketFile, spec: SocketSpec) -> None:
    """Give a socket file that is in use the owner and the mode of a section; it stays the same socket.

    Raises:
        BindError: that cannot be done.
    """
    address = Unix(file.path)
    made = as_made(address, spec)
    try:
        file.permit(made.st_uid, made.st_gid, stat.S_IMODE(made.st_mode))
    except OSError as error:
        raise cannot_listen(address, error, hint=_unix_hint(error, os.path.dirname(file.path))) from None


def _rights(address: Unix, spec: SocketSpec) -> tuple[int, tuple[int, int]]:
    """Mode and owner."""
    mode = DEFAULT_MODE if spec.mode is None else int(spec.mode, 8)
    return mode, (_owner(address, spec.owner), _group(address, spec.group))


def _directory_of(address: Unix) -> Directory:
    directory = os.path.dirname(os.path.abspath(address.path))
    try:
        return Directory(directory)
    except OSError as error:
        hint = f"mkdir -p {directory}" if error.errno == errno.ENOENT else ""
        raise BindError(f"cannot listen on {address}: directory {directory}: {_words(error)}", hint=hint) from None


def _bind_beside(
    sock: socket.socket, parent: Directory, base: str, rights: tuple[int, tuple[int, int]], backlog: int
) -> tuple[str, os.stat_result]:
    """Bind under a private name, give it owner and mode, and listen; return the name and what the file is.

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
        found = permit(parent, private, *rights)
        sock.setblocking(False)
        sock.listen(backlog)
    except BaseException:
        discard(parent, private)
        raise
    return private, found


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
