"""Where it is measured: what a report has to say of the machine, without its name and without paths."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version

from trapeze_bench.results import Machine
from trapeze_bench.targets import BENCH

__all__ = ["AUTOGROUP", "look", "packages", "setting"]

AUTOGROUP = "/proc/sys/kernel/sched_autogroup_enabled"


def look(versions: Mapping[str, str]) -> Machine:
    """Look at it, before the load.

    Args:
        versions: of the servers, the generator and nginx; that of trapeze comes on top.
    """
    return Machine(
        processor=_field("/proc/cpuinfo", "model name") or platform.machine(),
        cores=os.cpu_count() or 1,
        memory=int((_field("/proc/meminfo", "MemTotal") or "0 kB").split()[0]) // 1024,
        kernel=platform.release(),
        python=platform.python_version(),
        versions={"trapeze-server": "a checkout", **packages(["trapeze-server"]), **versions},
        commit=_commit(),
        load=round(os.getloadavg()[0], 2),
        autogroup=setting(AUTOGROUP) == "1",
    )


def packages(names: Iterable[str]) -> dict[str, str]:
    """The versions of those that are installed."""
    found = {}
    for name in names:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _commit() -> str | None:
    """Of the checkout that this file lies in. Installed into an environment inside somebody's checkout is not that."""
    top = _git("rev-parse", "--show-toplevel")
    if top is None or os.path.realpath(top) != os.path.realpath(BENCH.parent):
        return None
    commit = _git("rev-parse", "--short=12", "HEAD")
    if commit is None:
        return None
    return commit + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(BENCH), *words], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _field(path: str, name: str) -> str:
    try:
        with open(path) as file:
            found = next((line for line in file if line.startswith(name)), "")
    except OSError:
        return ""
    return found.partition(":")[2].strip()


def setting(path: str) -> str:
    """What a file of /proc/sys says; empty where this kernel has no such setting."""
    try:
        with open(path) as file:
            return file.readline().strip()
    except OSError:
        return ""
