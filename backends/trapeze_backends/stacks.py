"""Stacks on demand: a signal makes this process write where all of its threads are."""

from __future__ import annotations

import faulthandler
import os

__all__ = ["register"]

_private = -1
"""The copy of stderr on which they are written."""


def register(signum: int) -> None:
    """Have `signum` write the stacks of all threads on a private copy of what is stderr now. 0: none.

    Private, because what the app does to its own stderr must not hide where it hangs. To be called again where stderr
    has become another: a forked worker must not write on that of its zygote.
    """
    global _private
    if not signum:
        return
    try:
        copy = os.dup(2)
    except OSError:  # it is closed
        copy = os.open(os.devnull, os.O_WRONLY)
    faulthandler.register(signum, file=copy, all_threads=True, chain=False)
    if _private >= 0:
        os.close(_private)
    _private = copy
