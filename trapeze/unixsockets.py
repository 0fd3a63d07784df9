"""Unix sockets: the file that stands for one, its owner and mode, and whether what is there already is alive."""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import pwd
import socket
import stat
from typing import TYPE_CHECKING

from trapeze import holders
from trapeze.addresses import SUN_PATH_MAX, Abstract, Unix
from trapeze.errors import BindError
from trapeze.holders import cannot_listen
from trapeze.spec import SocketSpec

if TYPE_CHECKING:
    from typing import Self

__all__ = ["SocketFile", "listen_abstract", "listen_unix"]

DEFAULT_MODE = 0o660
"""Permissions of a Unix socket when the file says nothing: connecting needs the right to write."""


class SocketFile:
    """The file of a Unix socket of ours, remembered by its inode: a file of that name may be another's by now."""

    __slots__ = ("_gone", "inode", "path")

    def __init__(self, path: str, inode: tuple[int, int]) -> None:
        self.path = path
        self.inode = inode
        self._gone = False

    @property
    def intact(self) -> bool:
        """Is it still there, and ours?"""
        return not self._gone and self._is_at(self.path)

    @property
    def hidden(self) -> bool:
        """Has `hide` moved it out of sight?"""
        return not self._gone and self._is_at(self._aside)

    @property
    def _aside(self) -> str:
        directory, base = os.path.split(self.path)
        return os.path.join(directory, hidden_name(base))

    def _is_at(self, path: str) -> bool:
        try:
            return inode_of(os.lstat(path)) == self.inode
        except OSError:
            return False

    def hide(self) -> None:
        """Move it, if it is still ours, where no client looks for it: connecting then fails as if it were removed.

        What waits in the socket's queue stays there, and `show` brings the same socket back with its owner and mode.
        """
        if not self._gone:
            self._move(self.path, self._aside)

    def show(self) -> None:
        """Move it back to its path, if `hide` has moved it.

        Raises:
            BindError: something else has taken the path meanwhile.
        """
        if self.hidden:
            _check_free(Unix(self.path), self.path, set())
            self._move(self._aside, self.path)

    def _move(self, old: str, new: str) -> None:
        directory, base = os.path.split(old)
        # A directory that is gone has no file of ours; in one that is no longer ours to write nothing can be done.
        with contextlib.suppress(OSError), Directory(directory) as parent:
            if inode_of(os.lstat(base, dir_fd=parent.fd)) == self.inode:
                os.rename(base, os.path.basename(new), src_dir_fd=parent.fd, dst_dir_fd=parent.fd)

    def unlink(self) -> None:
        """Remove it if it is still ours. Safe to call twice."""
        if self._gone:
            return
        directory, base = os.path.split(self._aside if self.hidden else self.path)
        self._gone = True
        with contextlib.suppress(OSError), Directory(directory) as parent:
            if inode_of(os.lstat(base, dir_fd=parent.fd)) == self.inode:
                os.unlink(base, dir_fd=parent.fd)


def hidden_name(base: str) -> str:
    """The name of a socket file of that name while it is hidden."""
    return f".{base[:64]}.closed"


def inode_of(found: os.stat_result) -> tuple[int, int]:
    """Return what tells one file from another."""
    return found.st_dev, found.st_ino


class Directory:
    """A directory held open, so that its name is resolved once."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)


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
        _check_free(address, path, ours)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            inode = _bind_beside(sock, parent, base, mode, (uid, gid), spec.backlog)
        except OSError as error:
            sock.close()
            raise cannot_listen(address, error, hint=_unix_hint(error, directory)) from None
    return sock, SocketFile(path, inode)


def _bind_beside(
    sock: socket.socket, parent: Directory, base: str, mode: int, owner: tuple[int, int], backlog: int
) -> tuple[int, int]:
    """Bind under a private name, give it owner and mode, listen, and only then move it into place.

    So clients find either what was there before or a socket that is ready, never one with the wrong permissions.
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
        os.rename(private, base, src_dir_fd=parent.fd, dst_dir_fd=parent.fd)
        _remove_stale(parent, hidden_name(base))
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(private, dir_fd=parent.fd)
        raise
    return inode


def permit(parent: Directory, base: str, mode: int, owner: tuple[int, int]) -> tuple[int, int]:
    """Set owner and mode on the file itself, held open: in a directory others can write, a name proves nothing."""
    fd = os.open(base, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent.fd)
    try:
        found = os.fstat(fd)
        if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.geteuid() or found.st_nlink != 1:
            raise PermissionError(errno.EPERM, "somebody else replaced the socket file while it was made")
        handle = f"/proc/self/fd/{fd}"
        if owner != (-1, -1):
            os.chown(handle, *owner)
        os.chmod(handle, mode)
    finally:
        os.close(fd)
    return inode_of(found)


def _remove_stale(parent: Directory, base: str) -> None:
    """Remove a hidden file that a supervisor left behind when it was killed; a live one is somebody's."""
    with contextlib.suppress(OSError):
        if not stat.S_ISSOCK(os.lstat(base, dir_fd=parent.fd).st_mode):
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            try:
                probe.connect(f"/proc/self/fd/{parent.fd}/{base}")
            except ConnectionRefusedError:
                os.unlink(base, dir_fd=parent.fd)


def _words(error: OSError) -> str:
    return f"{(error.strerror or str(error)).lower()} ({errno.errorcode.get(error.errno or 0, '?')})"


def _unix_hint(error: OSError, directory: str) -> str:
    if error.errno == errno.EACCES:
        return f"the directory {directory} must be writable by uid {os.geteuid()}"
    if error.errno == errno.EPERM:
        return "only root may give a socket to another owner, or to a group one is not in"
    return ""


def _check_free(address: Unix, path: str, ours: set[tuple[int, int]]) -> None:
    """See to it that nothing living is replaced: only ECONNREFUSED says that a socket file is stale."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise cannot_listen(address, error) from None
    if not stat.S_ISSOCK(found.st_mode):
        raise BindError(f"cannot listen on {address}: a file is there that is not a socket", hint=f"look at {path}")
    if inode_of(found) in ours:
        return
    holder = ""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
            holder = holders.peer_of(probe)
        except (ConnectionRefusedError, FileNotFoundError):
            return
        except OSError:
            # EAGAIN: alive, its queue is full. EACCES: not ours to ask. EPROTOTYPE: a datagram socket.
            pass
    raise cannot_listen(address, OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE)), holder)


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
