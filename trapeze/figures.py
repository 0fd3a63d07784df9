"""Figures of processes, asked of the kernel when somebody wants to see them."""

from __future__ import annotations

import psutil

__all__ = ["resident"]


def resident(pid: int) -> int | None:
    """Resident memory of a process in bytes; None if it is gone or not ours to look at."""
    try:
        return psutil.Process(pid).memory_info().rss
    except psutil.Error:
        return None
