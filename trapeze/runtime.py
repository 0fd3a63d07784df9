"""Runtime directories, and the names of running instances in them.

An instance named X is the socket `X.sock` in a runtime directory. The socket is the lock and the address: whoever
answers on it is the instance, and a file on which nobody answers (ECONNREFUSED) is what a killed one left behind.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import socket
import stat
import struct
from collections.abc import Mapping
from typing import NamedTuple

from trapeze.errors import AlreadyRunning, BindError, ConfigError, Problem
from trapeze.socketfile import locked
from trapeze.spec import ControlSpec

__all__ = [
    "BACKLOG",
    "Claim",
    "Directory",
    "Instance",
    "claim",
    "control_mode",
    "directories",
    "list_instances",
    "own_directory",
    "peer",
]

BACKLOG = 64
"""Clients that may wait before the control door is open: it opens after the workers are on their way."""

_PATH_MAX = 107
"""Longest path of a Unix socket, in bytes (sun_path, less its final NUL)."""

_SUFFIX = ".sock"


class Directory(NamedTuple):
    """A place where instances may be."""

    path: str
    why: str
    """What names it: `$TRAPEZE_RUNTIME_DIR`, `root`, `$XDG_RUNTIME_DIR`, `uid 1000`."""


class Instance(NamedTuple):
    """A supervisor that runs."""

    name: str
    path: str
    """Its control socket."""
    pid: int | None
    """None where the kernel does not tell: no permission, its backlog is full, or it is in another pid namespace."""
    uid: int | None
    """User it runs as; None as for `pid`."""
    reachable: bool = True
    """False: it is there, but we may not open its socket."""


class Claim:
    """A name that is ours as long as `sock` is open."""

    def __init__(self, name: str, path: str, sock: socket.socket, inode: tuple[int, int] | None = None) -> None:
        """`inode`: of the socket's file, where it is known; the file may be another's by now."""
        self.name = name
        self.path = path
        self.sock = sock
        if inode is None:
            found = os.lstat(path)
            inode = found.st_dev, found.st_ino
        self.inode = inode

    def release(self) -> None:
        """Close the socket and unlink its path, if it is still ours. May be called twice."""
        # Unlinked before it is closed: in between a starter would find a socket that refuses, and replace it.
        with contextlib.suppress(OSError):
            found = os.lstat(self.path)
            if (found.st_dev, found.st_ino) == self.inode:
                os.unlink(self.path)
        self.inode = (-1, -1)
        self.sock.close()


def directories(environ: Mapping[str, str] | None = None) -> list[Directory]:
    """Return the places where a client looks, in this order."""
    environ = os.environ if environ is None else environ
    found = []
    if explicit := environ.get("TRAPEZE_RUNTIME_DIR"):
        found.append(Directory(os.path.abspath(explicit), "$TRAPEZE_RUNTIME_DIR"))
    found.append(Directory("/run/trapeze", "root"))
    if xdg := environ.get("XDG_RUNTIME_DIR"):
        found.append(Directory(os.path.join(xdg, "trapeze"), "$XDG_RUNTIME_DIR"))
    found.append(Directory(f"/tmp/trapeze-{os.getuid()}", f"uid {os.getuid()}"))
    return found


def own_directory(environ: Mapping[str, str] | None = None) -> Directory:
    """Return the place where a supervisor that we start puts its socket."""
    places = directories(environ)
    if places[0].why == "$TRAPEZE_RUNTIME_DIR" or os.geteuid() == 0:
        return places[0]
    # XDG_RUNTIME_DIR survives `su` and cron into sessions that have none.
    return next(place for place in places if place.why != "root" and os.path.isdir(os.path.dirname(place.path)))


def control_mode(spec: ControlSpec) -> int:
    """Return the permissions of the control socket: a group that is named may open it, whatever the default says."""
    mode = int(spec.mode, 8)
    return mode | 0o060 if spec.group is not None else mode


def claim(name: str, spec: ControlSpec, *, environ: Mapping[str, str] | None = None) -> Claim:
    """Open the control socket of the instance *name*: from here on the name is ours and clients may connect.

    Raises:
        AlreadyRunning: a live supervisor answers to that name in this directory.
        BindError: the directory or the socket could not be had.
        ConfigError: the group does not exist.
    """
    place = own_directory(environ)
    path = os.path.join(place.path, name + _SUFFIX)
    group = _group_id(spec.group)
    mode = control_mode(spec)
    temporary = os.path.join(place.path, f".{name}.new")  # not longer than `path`; ours while we hold the lock
    length = len(os.fsencode(path))
    if length > _PATH_MAX:
        raise BindError(
            f"the control socket {path} has a path that is too long: {length} bytes, the kernel takes {_PATH_MAX}",
            hint="set TRAPEZE_RUNTIME_DIR to a shorter directory",
        )
    try:
        _make_directory(place, open_to_others=bool(mode & 0o077))
        with locked(os.path.join(place.path, name + ".lock")):
            _refuse_live(name, path)
            return Claim(name, path, _bind(temporary, path, mode, group))
    except OSError as error:
        raise BindError(
            f"cannot open the control socket {path}: {os.strerror(error.errno or 0).lower()}"
            f" ({errno.errorcode.get(error.errno or 0, '?')})",
            hint="set TRAPEZE_RUNTIME_DIR to a directory of your own",
        ) from error


def list_instances(environ: Mapping[str, str] | None = None, *, everyone: bool = False) -> list[Instance]:
    """Return the live instances in all directories, in their order, by name.

    Args:
        environ: the environment; the process's own by default.
        everyone: root also looks into the directories of other users.
    """
    places = [place.path for place in directories(environ)]
    if everyone and os.geteuid() == 0:
        places += sorted(glob.glob("/run/user/*/trapeze")) + sorted(glob.glob("/tmp/trapeze-*"))
    found: list[Instance] = []
    for place in dict.fromkeys(os.path.realpath(place) for place in places):
        with contextlib.suppress(OSError):  # not there, or not ours to read
            names = sorted(entry for entry in os.listdir(place) if entry.endswith(_SUFFIX) and entry[0] != ".")
            found += filter(None, (_look(entry[: -len(_SUFFIX)], os.path.join(place, entry)) for entry in names))
    return found


def peer(sock: socket.socket) -> tuple[int, int, int]:
    """Return (pid, uid, gid) of the process at the other end; for a client: of the one that listened."""
    pid, uid, gid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return pid, uid, gid


def _look(name: str, path: str) -> Instance | None:
    """Is there somebody? Only ECONNREFUSED means nobody: EAGAIN (full backlog) and EACCES mean alive."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as sock:
        try:
            sock.connect(path)
        except (ConnectionRefusedError, FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            return Instance(name, path, None, None, reachable=error.errno == errno.EAGAIN)
        pid, uid, _ = peer(sock)
        return Instance(name, path, pid or None, uid)


def _refuse_live(name: str, path: str) -> None:
    if not os.path.lexists(path):
        return
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        raise BindError(f"{path} is in the way: it is not a socket")
    found = _look(name, path)
    if found is None:
        return
    pid = f" as pid {found.pid}" if found.pid else ""
    raise AlreadyRunning(
        f"an instance named {name} is already running{pid}",
        hint=f"stop it with `trapeze --name {name} shutdown`, or give this one another --name",
    )


def _bind(temporary: str, path: str, mode: int, group: int) -> socket.socket:
    """Bind under a private name, give it its mode and group there, and only then rename it into place."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)  # of a starter that was killed in the middle
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        before = os.umask(0o177)
        try:
            sock.bind(temporary)
        finally:
            os.umask(before)
        if group != -1:
            os.chown(temporary, -1, group)
        os.chmod(temporary, mode)
        sock.listen(BACKLOG)
        os.rename(temporary, path)
    except BaseException:
        sock.close()
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    return sock


def _make_directory(place: Directory, *, open_to_others: bool) -> None:
    """Make the directory, or check that one that is there cannot be tampered with.

    /run/trapeze is open for reading, since the mode of each socket decides; so is a directory that was named, if the
    control socket is open to others. All others are private.
    """
    explicit = place.why == "$TRAPEZE_RUNTIME_DIR"
    shared = place.why == "root" or (explicit and open_to_others)
    with contextlib.suppress(FileExistsError):
        os.mkdir(place.path, 0o700)
        os.chmod(place.path, 0o755 if shared else 0o700)
    # Whoever can write to /tmp could put a link there: only a directory that the user named may be one.
    found = os.stat(place.path) if explicit else os.lstat(place.path)
    if not stat.S_ISDIR(found.st_mode):
        raise BindError(f"{place.path} is not a directory", hint="remove it, or set TRAPEZE_RUNTIME_DIR")
    if found.st_uid != os.geteuid():
        raise BindError(
            f"the runtime directory {place.path} belongs to uid {found.st_uid}, not to us (uid {os.geteuid()})",
            hint="set TRAPEZE_RUNTIME_DIR to a directory of your own",
        )
    if found.st_mode & 0o022:
        raise BindError(
            f"the runtime directory {place.path} can be written by others (mode {stat.S_IMODE(found.st_mode):04o})",
            hint=f"chmod go-w {place.path}",
        )


def _group_id(group: str | None) -> int:
    """Return the number of a group by name or number; -1 for none."""
    if group is None:
        return -1
    if group.isdecimal():
        return int(group)
    import grp

    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise ConfigError([Problem("control.group", f'there is no group named "{group}"')]) from None
