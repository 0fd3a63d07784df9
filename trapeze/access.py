"""May this user get at that file? As the kernel decides it by owner, group and mode; access lists are not looked at."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection

from msgspec import Struct

__all__ = ["Entry", "Person", "allows", "barred", "entries", "person"]


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
    """Return what decides about a path: its directories from the root on, then itself. OSError where we cannot look."""
    whole = os.path.realpath(path)
    parts = [whole]
    while parts[-1] != "/":
        parts.append(os.path.dirname(parts[-1]))
    found = []
    for part in reversed(parts):
        status = os.stat(part)
        found.append(Entry(part, status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)))
    return found


def barred(chain: Collection[Entry], who: Person) -> Entry | None:
    """Return the first directory of a chain (all of them directories) that this user may not enter."""
    return next((entry for entry in chain if not allows(entry, who, 1)), None)
