"""The file that stands for a Unix socket: how it comes to its path, what it may replace there, and how it goes."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
from typing import TYPE_CHECKING

from trapeze import holders
from trapeze.addresses import Unix
from trapeze.errors import BindError
from trapeze.holders import cannot_listen

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from typing import Self

__all__ = ["Directory", "SocketFile", "discard", "is_stale", "locked", "permit", "place", "set_aside"]


class SocketFile:
    """The file of a Unix socket of ours, remembered by its inode: a file of that name may be another's by now."""

    __slots__ = ("_gone", "holders", "inode", "path", "private")

    def __init__(self, path: str, inode: tuple[int, int], private: str = "") -> None:
        self.path = path
        self.inode = inode
        self.private = private
        """Its name beside the path, as long as it has not been moved there."""
        self.holders = 1
        """Sockets that have it in common: duplicates of one, with other permissions to come."""
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

    @property
    def _where(self) -> str:
        if self.private:
            return os.path.join(os.path.dirname(self.path), self.private)
        return self._aside if self.hidden else self.path

    def _is_at(self, path: str) -> bool:
        try:
            return inode_of(os.lstat(path)) == self.inode
        except OSError:
            return False

    def share(self) -> SocketFile:
        """One more socket has it: it stays until the last one is closed."""
        self.holders += 1
        return self

    def release(self) -> None:
        """One less has it."""
        self.holders -= 1
        if self.holders <= 0:
            self.unlink()

    def appear(self) -> None:
        """Move it to its path, if it was made under a private name and is still there.

        Raises:
            BindError: something living is there; or it cannot be moved.
        """
        if not self.private:
            return
        directory, base = os.path.split(self.path)
        try:
            with Directory(directory) as parent:
                place(Unix(self.path), parent, self.private, base)
        except OSError as error:
            raise cannot_listen(Unix(self.path), error) from None
        self.private = ""

    def permit(self, uid: int, gid: int, mode: int) -> None:
        """Give it another owner and mode, wherever it is; nobody who may not have it can use it in between.

        Raises:
            OSError: it is gone or another's by now, or that is not ours to do.
        """
        directory, base = os.path.split(self._where)
        with Directory(directory) as parent, _held(parent, base) as (handle, found):
            if inode_of(found) != self.inode:
                raise PermissionError(errno.EPERM, "somebody else replaced the socket file")
            os.chmod(handle, mode & stat.S_IMODE(found.st_mode))
            if (uid, gid) != (found.st_uid, found.st_gid):
                os.chown(handle, uid, gid)
            os.chmod(handle, mode)

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
            directory, base = os.path.split(self.path)
            with contextlib.suppress(OSError), Directory(directory) as parent:
                place(Unix(self.path), parent, hidden_name(base), base)

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
        directory, base = os.path.split(self._where)
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


def discard(parent: Directory, private: str) -> None:
    """Remove a socket that has only its private name."""
    with contextlib.suppress(OSError):
        os.unlink(private, dir_fd=parent.fd)


def place(address: Unix, parent: Directory, private: str, base: str, ours: Collection[tuple[int, int]] = ()) -> None:
    """Move a socket from the name that it has to the one that clients know.

    A path that is free is taken by a link, which never replaces anything. For one that is stale there is a lock: two
    that found the same dead file would replace it one after the other, and both believe that they have it.

    Raises:
        BindError: something living is there.
        OSError: it could not be moved.
    """
    with locked(f".{base[:64]}.lock", dir_fd=parent.fd):
        if is_stale(address, os.path.join(parent.path, base), ours) or not _linked(address, parent, private, base):
            os.rename(private, base, src_dir_fd=parent.fd, dst_dir_fd=parent.fd)
        for left_behind in (hidden_name(base), waiting_name(base)):
            _remove_stale(parent, left_behind)


def _linked(address: Unix, parent: Directory, private: str, base: str) -> bool:
    """Take a free path. False where files cannot have two names (vfat, some network file systems)."""
    try:
        os.link(private, base, src_dir_fd=parent.fd, dst_dir_fd=parent.fd, follow_symlinks=False)
    except FileExistsError as error:
        raise cannot_listen(address, OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))) from error
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
            return False
        raise
    os.unlink(private, dir_fd=parent.fd)
    return True


@contextlib.contextmanager
def locked(path: str, *, dir_fd: int | None = None) -> Iterator[None]:
    """Hold a lock file while looking and binding; it is removed by its holder, so that none is left."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600, dir_fd=dir_fd)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
        except BaseException:
            os.close(fd)
            raise
        # While we waited its holder removed it: then ours is the lock of a file that is gone.
        with contextlib.suppress(FileNotFoundError):
            if os.stat(path, dir_fd=dir_fd).st_ino == os.fstat(fd).st_ino:
                break
        os.close(fd)
    try:
        yield
    finally:
        os.unlink(path, dir_fd=dir_fd)
        os.close(fd)


def permit(parent: Directory, base: str, mode: int, owner: tuple[int, int]) -> os.stat_result:
    """Set owner and mode on a file that was just made; return what it is then."""
    with _held(parent, base) as (handle, found):
        if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.geteuid() or found.st_nlink != 1:
            raise PermissionError(errno.EPERM, "somebody else replaced the socket file while it was made")
        if owner != (-1, -1):
            os.chown(handle, *owner)
        os.chmod(handle, mode)
        return os.stat(handle)


@contextlib.contextmanager
def _held(parent: Directory, base: str) -> Iterator[tuple[str, os.stat_result]]:
    """The file itself, held open, and what it is: in a directory others can write, a name proves nothing."""
    fd = os.open(base, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent.fd)
    try:
        yield f"/proc/self/fd/{fd}", os.fstat(fd)
    finally:
        os.close(fd)


def waiting_name(base: str) -> str:
    """The name of a socket file of that name that has not taken its path yet."""
    return f".{base[:64]}.next"


def set_aside(parent: Directory, private: str, base: str) -> str:
    """Give a socket that is not to take its path yet a name that can be told; return the one that it has.

    A supervisor that is killed meanwhile leaves it behind, and the next one knows what to remove.
    """
    known = waiting_name(base)
    with contextlib.suppress(OSError), locked(f".{base[:64]}.lock", dir_fd=parent.fd):
        _remove_stale(parent, known)
        os.link(private, known, src_dir_fd=parent.fd, dst_dir_fd=parent.fd, follow_symlinks=False)
        os.unlink(private, dir_fd=parent.fd)
        return known
    return private


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


def is_stale(address: Unix, path: str, ours: Collection[tuple[int, int]] = ()) -> bool:
    """Is there something to be replaced? Only ECONNREFUSED says that a socket file is stale.

    Raises:
        BindError: it is alive, or no socket.
    """
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise cannot_listen(address, error) from None
    if not stat.S_ISSOCK(found.st_mode):
        raise BindError(f"cannot listen on {address}: a file is there that is not a socket", hint=f"look at {path}")
    if inode_of(found) in ours:
        return True
    holder = ""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
            holder = holders.peer_of(probe)
        except FileNotFoundError:
            return False
        except ConnectionRefusedError:
            return True
        except OSError:
            # EAGAIN: alive, its queue is full. EACCES: not ours to ask. EPROTOTYPE: a datagram socket.
            pass
    raise cannot_listen(address, OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE)), holder)
