"""The end of a worker: everything that an interpreter does at its end, except for taking itself apart.

That writes to every object there is. In a forked worker each page of the app's memory would so be copied once more, for
nothing, in the very moment in which a reload needs the processor and the memory for the new workers. It is what
multiprocessing does at the end of a process that it has forked.

One thing of it shows: files that the app has left open are closed, and so what has been written to them reaches the
disk. That is done here.
"""

from __future__ import annotations

import _io
import atexit
import gc
import os
import sys
from itertools import compress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

__all__ = ["end", "keep_files", "leave"]

_kept: list[Any] = []
"""Files of the zygote: objects that are frozen are not listed any more."""


def keep_files() -> None:
    """To be called before `gc.freeze`: which files are open by now."""
    _kept.extend(_files())


def end(status: int, *, wait: bool = True) -> NoReturn:
    """End as a program does that comes to its last line: threads, exit handlers, files (in the order of
    `Py_FinalizeEx`).

    Args:
        status: the exit status.
        wait: for threads; where the interpreter is a guest in another program, they are that program's.
    """
    threading = sys.modules.get("threading")
    if wait and threading is not None:
        threading._shutdown()  # waits for those that are no daemons; and executors have theirs ended by it
    atexit._run_exitfuncs()
    for file in (*_kept, *_files()):
        try:
            file.flush()
        except Exception:  # closed, only for reading, detached, or of a class of the app's
            continue
    leave(status)


def leave(status: int) -> NoReturn:
    """End without waiting for whatever threads the app has started while it was imported."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError, RuntimeError):
            continue
    os._exit(status)


def _files() -> list[Any]:
    """All file objects that the collector knows of."""
    kinds: dict[int, type] = {}
    new: list[type] = [_io._IOBase]
    while new:
        kind = new.pop()
        kinds[id(kind)] = kind
        new += type.__subclasses__(kind)  # of `type`: a metaclass may have a method of that name too
    # By its type alone: isinstance() would ask objects of the app's what they say they are. And without a step of
    # Python's own for each of them: there are ten thousands, and this stands between a start and its first answer.
    found = gc.get_objects()
    return list(compress(found, map(kinds.__contains__, map(id, map(type, found)))))
