"""May the user that a service runs as get at what the service names? Root may, so looking as ourselves tells nothing.

Owner, group and mode say who is kept out and by what (see `access`). They do not have the last word: an access list,
or a file system that goes by rules of its own, may let in whom the mode keeps out, and a service that runs must not be
refused. So the kernel is asked before anybody is said to be kept out; who is let in costs no process.
"""

from __future__ import annotations

import os
import re

from msgspec import Struct

from trapeze.access import Entry, Person, allows, barred, entries
from trapeze.spec import ServiceSpec

__all__ = ["ENTER", "EXECUTE", "READ", "Account", "Found", "account", "group_number", "handed_to", "refusal"]

READ = 4
EXECUTE = ENTER = 1

_NUMBER = re.compile(r"[0-9]{1,10}")


class Account(Struct, frozen=True):
    """A user as the system knows it, or a bare number."""

    uid: int
    gid: int | None
    """Primary group; None for a number that no user has."""


class Found(Struct, frozen=True):
    """One problem of a service or a socket, before its origin is looked up."""

    field: str
    reason: str
    hint: str = ""
    closed: str = ""
    """The file or directory that keeps the service's user out: it is said once, whatever lies behind it."""


def account(user: str) -> Account | None:
    """A user by name or number; None for a name that does not exist."""
    import pwd

    try:
        entry = pwd.getpwuid(int(user)) if _NUMBER.fullmatch(user) else pwd.getpwnam(user)
    except KeyError:
        return Account(int(user), None) if _NUMBER.fullmatch(user) else None
    return Account(entry.pw_uid, entry.pw_gid)


def group_number(group: str) -> int | None:
    """A group by name or number; None for a name that does not exist."""
    import grp

    if _NUMBER.fullmatch(group):
        return int(group)
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        return None


def handed_to(spec: ServiceSpec) -> Person | None:
    """Whom a service is handed to by root, with the groups that its processes get (as `generation.identity` has it).

    None where it stays with us, where that is root again, and where user or group does not exist.
    """
    if os.geteuid() != 0 or spec.user is None:
        return None
    who = account(spec.user)
    if who is None or who.uid == 0:
        return None
    gid = who.gid if spec.group is None else group_number(spec.group)
    return None if gid is None else Person(spec.user, who.uid, [gid, *_groups(who)])


def _groups(who: Account) -> list[int]:
    """Those of the user database, where it has the user."""
    import pwd

    if who.gid is None:
        return []
    return os.getgrouplist(pwd.getpwuid(who.uid).pw_name, who.gid)


def refusal(field: str, path: str, who: Person, wanted: int, verb: str) -> Found | None:
    """Why this user may not get at a path: READ, or EXECUTE for a program, or ENTER for a directory; None if it may.

    None as well where we cannot look: then others say what is wrong.
    """
    try:
        chain = entries(path)
    except OSError:
        return None
    closed = barred(chain[:-1], who)
    itself = closed is None
    if closed is None and not allows(chain[-1], who, wanted):
        closed = chain[-1]
    if closed is None or _granted(path, who, wanted):
        return None
    about = f"mode {closed.mode:04o}, uid {closed.uid}, gid {closed.gid}"
    because = "" if itself else f": it may not enter {closed.path}"
    reason = f'{path}: user "{who.name}" may not {verb} it{because} ({about})'
    way_out = "give it to that user" if itself else "choose another place"
    hint = f"{_chmod(closed, who, wanted if itself else ENTER)}, or {way_out}"
    return Found(field, reason, hint, closed.path)


def _chmod(closed: Entry, who: Person, wanted: int) -> str:
    """The class of users that decides, and what it lacks."""
    whose = "u" if closed.uid == who.uid else "g" if closed.gid in who.gids else "o"
    bits = "".join(letter for bit, letter in ((READ, "r"), (EXECUTE, "x")) if wanted & bit)
    return f"chmod {whose}+{bits} {closed.path}"


def _granted(path: str, who: Person, wanted: int) -> bool:
    """What the kernel says, asked as that user."""
    import subprocess

    ask = " && ".join(f'[ -{letter} "$1" ]' for bit, letter in ((READ, "r"), (EXECUTE, "x")) if wanted & bit)
    gid, *more = who.gids
    quiet = subprocess.DEVNULL
    try:
        done = subprocess.run(
            ["/bin/sh", "-c", ask, "sh", path],
            user=who.uid,
            group=gid,
            extra_groups=more,
            cwd="/",
            env={},
            stdin=quiet,
            stdout=quiet,
            stderr=quiet,
            check=False,
        )
    except OSError:  # a user who may not even run a shell
        return False
    return done.returncode == 0
