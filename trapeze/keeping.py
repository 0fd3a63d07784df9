"""The keeper's program: it waits until the supervisor is dead, and then stops what the kernel's signal does not reach.

It runs in an interpreter of its own, from this text (see `keeper`), imports nothing of ours and next to nothing else.
Its standard input is a pipe from the supervisor. On it come lines, and then an end:

    + PID START SIGNAL TIMEOUT WHOLE UID GID    a child came: its start in clock ticks since boot, its stop signal,
                                                seconds until SIGKILL, 1 if its process group is its own to be killed,
                                                and the ids that it was started with
    - PID                                       it was reaped
    bye                                         everything has stopped in order: leave
    (end of file)                               the supervisor is dead

What happens then. Direct children have got their stop signal from the kernel; a second one would be "at once" for some
(redis), so they get one from here only if the kernel's cannot have come: they changed their ids, which clears it, or
they live on although nothing keeps that signal from ending them. Who is further down is left to a parent that is
still there, as in any other stop: a master that drains would not thank us for its children. As soon as nobody above is
left, it gets the stop signal too. When the time is up, SIGKILL for all.

Who is "further down": the process groups of the children, and everything that bears the supervisor's mark in the
environment it was started with, such as what has called setsid. A pid is nobody's name for long: it counts only
together with its start time, and signals go by pidfd.
"""

from __future__ import annotations

import _signal as signal  # the package around it imports enum, for which nobody here has a use
import os
import select
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["Group", "Last", "Seen", "listen", "main", "stat"]

_DEAF = 0.1
"""Seconds after which a process that the signal would have ended cannot have got it."""
_PATIENCE = 2.0
"""Seconds that whoever belongs to no group has at least, as at an orderly end."""
_TOGETHER = 0.01
"""Seconds in which deaths that come together are waited for before the next look."""
_TOO_LATE = 10.0
"""Seconds after the last SIGKILL that are waited for: for longer hangs only what nobody can kill."""
_POLLED = 200
"""So many processes are followed at a time: descriptors are limited."""
_NO_MERCY = 0.25
"""Seconds between looks when something should be gone, or when there are more than are followed."""


class Group:
    """A child of the supervisor, and its process group."""

    def __init__(self, words: list[bytes]) -> None:
        self.pid, self.start, self.signum = int(words[0]), int(words[1]), int(words[2])
        self.timeout = float(words[3])
        self.whole = words[4] == b"1"
        self.ids = (int(words[5]), int(words[6]))


class Seen:
    """A living process as /proc shows it."""

    def __init__(self, pid: int, parent: int, group: int, start: int, state: bytes) -> None:
        self.pid, self.parent, self.group, self.start, self.state = pid, parent, group, start, state

    @property
    def key(self) -> tuple[int, int]:
        """What no other process ever has."""
        return self.pid, self.start


def listen(fd: int) -> dict[int, Group] | None:
    """Read what the supervisor says until it is dead; return who was there then, or None after "bye"."""
    kept: dict[int, Group] = {}
    rest = b""
    while data := os.read(fd, 65536):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if line == b"bye":
                return None
            sign, *words = line.split()
            if sign == b"+":
                kept[int(words[0])] = Group(words)
            else:
                kept.pop(int(words[0]), None)
    return kept


def stat(pid: int | str) -> Seen | None:
    """Look at one process; None if it is gone or has ended."""
    text = _read(pid, "stat")
    # The name of the program is in brackets and may have anything in it.
    fields = text[text.rfind(b")") + 1 :].split()
    if not fields or fields[0] in (b"Z", b"X", b"x"):
        return None
    return Seen(int(pid), int(fields[1]), int(fields[2]), int(fields[19]), fields[0])


def _read(pid: int | str, what: str) -> bytes:
    try:
        with open(f"/proc/{pid}/{what}", "rb") as file:
            return file.read()
    except OSError:
        return b""


def _status(pid: int) -> dict[bytes, bytes]:
    pairs = [line.partition(b":") for line in _read(pid, "status").split(b"\n")]
    return {name: value for name, _, value in pairs}


class Last:
    """What is done once the supervisor is dead. Times are monotonic seconds."""

    def __init__(self, kept: Mapping[int, Group], mark: bytes) -> None:
        self._kept = kept
        self._mark = b"\0" + mark + b"\0"
        self._marked: dict[tuple[int, int], bool] = {}
        self._asked: set[tuple[int, int]] = set()
        self._began = time.monotonic()
        self._longest = max((_PATIENCE, *(group.timeout for group in kept.values())))
        """Seconds that those have who belong to no group: they may work for any of them."""

    def run(self) -> None:
        """Return when nothing is left."""
        while time.monotonic() < self._began + self._longest + _TOO_LATE:
            table = self._table()
            ours = {seen.pid: seen for seen in table.values() if self._is_ours(seen, table)}
            if not ours:
                return
            for seen in ours.values():
                self._treat(seen, ours)
            self._wait(ours.values())

    @staticmethod
    def _table() -> dict[int, Seen]:
        found = (stat(name) for name in os.listdir("/proc") if name.isdecimal())
        return {seen.pid: seen for seen in found if seen is not None and seen.pid != os.getpid()}

    def _leads(self, seen: Seen | None) -> bool:
        """Is this a child of the supervisor, and not just somebody who has its number now?"""
        return seen is not None and seen.pid in self._kept and self._kept[seen.pid].start == seen.start

    def _group_of(self, seen: Seen) -> Group | None:
        if self._leads(seen):
            return self._kept[seen.pid]
        group = self._kept.get(seen.group)
        return group if group is not None and group.whole else None

    def _is_ours(self, seen: Seen, table: Mapping[int, Seen]) -> bool:
        if self._leads(seen):
            return True
        # As long as anybody is in it a group keeps its number; if its leader is a stranger it has come to another use.
        if self._group_of(seen) is not None and (seen.group not in table or self._leads(table[seen.group])):
            return True
        if seen.key not in self._marked:
            self._marked[seen.key] = self._mark in b"\0" + _read(seen.pid, "environ")
        return self._marked[seen.key]

    def _deadline(self, seen: Seen) -> float:
        group = self._group_of(seen)
        return self._began + (self._longest if group is None else group.timeout)

    def _treat(self, seen: Seen, ours: Mapping[int, Seen]) -> None:
        if time.monotonic() >= self._deadline(seen):
            _send(seen, signal.SIGKILL)
        elif seen.key not in self._asked and self._is_due(seen, ours):
            self._asked.add(seen.key)
            group = self._group_of(seen)
            _send(seen, signal.SIGTERM if group is None else group.signum, signal.SIGCONT)
        elif seen.state == b"T":
            # What is stopped takes the kernel's signal only when it goes on.
            _send(seen, signal.SIGCONT)

    def _is_due(self, seen: Seen, ours: Mapping[int, Seen]) -> bool:
        """Must the stop signal come from here?"""
        if self._leads(seen):
            group = self._kept[seen.pid]
            status = _status(seen.pid)
            late = time.monotonic() >= self._began + _DEAF
            return _changed(status, group.ids) or (late and _heedless(status, group.signum))
        return seen.parent not in ours and not self._leads(ours.get(seen.group))

    def _wait(self, ours: Iterable[Seen]) -> None:
        """Until one of them has ended, or until something is due."""
        now = time.monotonic()
        times = [at for seen in ours if (at := self._deadline(seen)) > now]
        times += [at for at in (self._began + _DEAF,) if at > now]
        pause = min(times) - now if times else _NO_MERCY
        poll = select.poll()
        pidfds: list[int] = []
        for seen in ours:
            if len(pidfds) == _POLLED:
                pause = min(pause, _NO_MERCY)
                break
            pidfd = _open(seen)
            if pidfd is not None:
                pidfds.append(pidfd)
                poll.register(pidfd, select.POLLIN)
            else:
                pause = _TOGETHER
        ended = poll.poll(pause * 1000 + 1)
        for pidfd in pidfds:
            os.close(pidfd)
        if ended:
            time.sleep(_TOGETHER)


def _changed(status: Mapping[bytes, bytes], ids: tuple[int, int]) -> bool:
    """Has it another user or group than it was started with? The kernel forgets the parent-death signal then."""
    for name, wanted in ((b"Uid", ids[0]), (b"Gid", ids[1])):
        found = status.get(name, b"").split()
        if found and (int(found[1]), int(found[3])) != (wanted, wanted):
            return True
    return False


def _heedless(status: Mapping[bytes, bytes], signum: int) -> bool:
    """Would the signal have ended it? It is neither caught, nor ignored, nor blocked, nor waits to be delivered."""
    bit = 1 << (signum - 1)
    masks = [int(status.get(name, b"") or b"0", 16) for name in (b"SigCgt", b"SigIgn", b"SigBlk", b"SigPnd", b"ShdPnd")]
    return bool(status) and not any(mask & bit for mask in masks)


def _open(seen: Seen) -> int | None:
    """A pidfd of exactly this process; None if it is gone."""
    try:
        pidfd = os.pidfd_open(seen.pid)
    except OSError:
        return None
    again = stat(seen.pid)
    if again is not None and again.start == seen.start:
        return pidfd
    os.close(pidfd)
    return None


def _send(seen: Seen, *signums: int) -> None:
    pidfd = _open(seen)
    if pidfd is None:
        return
    for signum in signums:
        try:
            signal.pidfd_send_signal(pidfd, signum)
        except OSError:
            break  # gone, or another user's: nobody else may be hit, and there is nobody to tell
    os.close(pidfd)


def main() -> None:
    """Argument: the mark, NAME=value, that the supervisor gives to all its children."""
    for signum in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(signum, signal.SIG_IGN)
    kept = listen(0)
    if kept is not None:
        Last(kept, sys.argv[1].encode()).run()


if __name__ == "__main__":
    main()
