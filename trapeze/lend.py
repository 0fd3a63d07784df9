"""Limits that a child could not take for itself, lent to it while it is forked.

A child that drops its privileges does so before anything of ours runs in it, and from then on may only lower its limits
and raise its niceness. What root is allowed to grant has therefore to be inherited: for the moment of the fork the
supervisor has the higher hard limit (its soft limits stay, so nothing changes for itself) or the lower niceness; the
prelude then sets the exact values. There is one thread, so nobody else is forked in between.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
from collections.abc import Iterator, Mapping

from trapeze.limits import INFINITY, limit_names

__all__ = ["lent"]


@contextlib.contextmanager
def lent(limits: Mapping[str, tuple[int, int]], nice: int | None) -> Iterator[None]:
    """Have what a child needs and we may give, until the end of the block.

    Raises:
        OSError: we may not give it either.
    """
    with contextlib.ExitStack() as undo:
        for name, (_soft, hard) in limits.items():
            number = limit_names()[name]
            ours = resource.getrlimit(number)
            if ours[1] != INFINITY and (hard == INFINITY or hard > ours[1]):
                _raise(name, number, (ours[0], hard))
                undo.callback(resource.setrlimit, number, ours)
        before = os.getpriority(os.PRIO_PROCESS, 0)
        if nice is not None and nice < before:
            os.setpriority(os.PRIO_PROCESS, 0, nice)
            undo.callback(os.setpriority, os.PRIO_PROCESS, 0, before)
        yield


def _raise(name: str, number: int, limits: tuple[int, int]) -> None:
    try:
        resource.setrlimit(number, limits)
    except ValueError:  # how `resource` says EPERM
        raise PermissionError(errno.EPERM, f"may not raise the limit {name} to {limits[1]}") from None
