"""What `ps` shows: a forked worker writes its label over the one that the zygote was started with.

Only within what the label and the words behind it take up now. The words are where the kernel put them at exec, and
`/proc/self/mem` writes there without a C module.
"""

from __future__ import annotations

import os

__all__ = ["set_title"]

START, END = 47, 48
"""`arg_start` and `arg_end` in /proc/self/stat, counted from 0."""


def set_title(old: str, new: str) -> None:
    """Replace the word `old` of this process's command line by `new`; nothing happens where that cannot be done."""
    try:
        _replace(old.encode(), new.encode())
    except (OSError, ValueError, IndexError):
        return


def _replace(old: bytes, new: bytes) -> None:
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    start, end = int(fields[START - 2]), int(fields[END - 2])
    memory = os.open("/proc/self/mem", os.O_RDWR | os.O_CLOEXEC)
    try:
        words = os.pread(memory, end - start, start)
        at = words.index(b"\0" + old + b"\0") + 1
        rest = words[at + len(old) :]
        room = len(words) - at - 1  # the last byte stays a NUL: without it the kernel takes the environment for more
        os.pwrite(memory, (new + rest)[:room].ljust(room, b"\0"), start + at)
    finally:
        os.close(memory)
