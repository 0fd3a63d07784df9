"""May this user get at that file? As the kernel decides it by owner, group and mode; access lists are not looked at."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Collection

from msgspec import Struct

__all__ = ["Entry", "Person", "allows", "barred", "entries", "person"]

_MOST_LINKS = 40
"""As many as the kernel follows."""


class Person(Struct, frozen=True):
    """A user with all its groups."""

    name: str
    uid: int
    gids: Collection[int]


class Entry(Struct, frozen=True):
    """What decides about one file."""

    path: str
    uid: int
    gid: int
    mode: int


def person(name: str) -> Person | None:
    """Return a user of this machine by name; None if there is none."""
    import pwd

    try:
        found = pwd.getpwnam(name)
    except KeyError:
        return None
    return Person(name, found.pw_uid, os.getgrouplist(name, found.pw_gid))


def allows(entry: Entry, who: Person, wanted: int) -> bool:
    """Are the bits of `wanted` (4 read, 2 write, 1 enter) granted? The first class that fits decides alone."""
    if who.uid == 0:
        return True
    if who.uid == entry.uid:
        granted = entry.mode >> 6
    elif entry.gid in who.gids:
        granted = entry.mode >> 3
    else:
        granted = entry.mode
    return granted & wanted == wanted


def entries(path: str) -> list[Entry]:
    """Return what decides about a path: the directories that are entered, `/` first, then the file itself.

    Links are followed as the kernel does: the directories that hold them are entered too. Where `..` leads back, those
    that were entered in vain count likewise. OSError where we cannot look.
    """
    found: dict[str, Entry] = {}
    here = _enter("/", os.stat("/"), found)
    left = os.path.join(os.getcwd(), path).split("/")[::-1]
    links = 0
    while left:
        part = left.pop()
        if part in ("", "."):
            continue
        whole = os.path.dirname(here) if part == ".." else os.path.join(here, part)
        status = os.lstat(whole)
        if not stat.S_ISLNK(status.st_mode):
            here = _enter(whole, status, found)
            continue
        links += 1
        if links > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        target = os.readlink(whole)
        here = "/" if target.startswith("/") else here
        left += reversed(target.split("/"))
    return list(found.values())


def _enter(path: str, status: os.stat_result, found: dict[str, Entry]) -> str:
    """Note one step of the way; where it ends comes last, though it may have been passed before."""
    found.pop(path, None)
    found[path] = Entry(path, status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode))
    return path


def barred(chain: Collection[Entry], who: Person) -> Entry | None:
    """Return the first directory of a chain (all of them directories) that this user may not enter."""
    return next((entry for entry in chain if not allows(entry, who, 1)), None)
