"""What is around the supervisor: kernel settings, control groups, systemd, containers, file systems."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Iterator

import psutil

from trapeze.doctor.facts import StopFacts

__all__ = ["file_system", "memory_limit", "shared_memory", "somaxconn", "span", "stopped_by", "unit_of"]

_CGROUPS = "/sys/fs/cgroup"
_NONE = 2**60
"""A limit above this is none: version 1 has no other word for it."""
_SPAN = re.compile(r"([0-9.]+)\s*(us|ms|s|min|h|d|w|month|y)\b")
_UNITS = {
    "us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0,
    "month": 2629800.0, "y": 31557600.0,
}  # fmt: skip
DOCKER = 10.0
"""Seconds between TERM and KILL, unless somebody says otherwise: docker and podman."""
KUBERNETES = 30.0


def _text(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return None


def somaxconn() -> int | None:
    """What the kernel caps listen queues at."""
    text = _text("/proc/sys/net/core/somaxconn")
    return int(text) if text is not None and text.isdigit() else None


def shared_memory(pid: int) -> int | None:
    """Bytes that a process uses, pages that it shares counted in part; all of them where the kernel does not tell."""
    for line in (_text(f"/proc/{pid}/smaps_rollup") or "").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    with contextlib.suppress(psutil.Error):
        return int(psutil.Process(pid).memory_info().rss)
    return None


def file_system(path: str) -> str:
    """The kind of file system that a directory is on; "" where that is not known."""
    real = os.path.realpath(path)
    best = ("", "")
    for line in (_text("/proc/self/mounts") or "").splitlines():
        _device, place, kind, *_ = line.split(" ")
        place = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), place)
        inside = real == place or real.startswith(place.rstrip("/") + "/")
        if inside and len(place) >= len(best[0]):
            best = (place, kind)
    return best[1]


def memory_limit(pid: int | None) -> tuple[int | None, str]:
    """Return the bytes that the control group of a process (our own without one) may use, and the group's path."""
    lines = (_text(f"/proc/{pid or 'self'}/cgroup") or "").splitlines()
    found = [limit for line in lines for limit in _limits(line)]
    return min(found, default=(None, ""), key=lambda each: each[0] or 0)


def _limits(line: str) -> Iterator[tuple[int, str]]:
    """All limits above one line of /proc/PID/cgroup, its own included."""
    number, _, rest = line.partition(":")
    controllers, _, path = rest.partition(":")
    if number == "0":
        base, file = _CGROUPS, "memory.max"
    elif "memory" in controllers.split(","):
        base, file = f"{_CGROUPS}/memory", "memory.limit_in_bytes"
    else:
        return
    while True:
        text = _text(f"{base}{path.rstrip('/')}/{file}")
        if text is not None and text.isdigit() and int(text) < _NONE:
            yield int(text), path
        if path in ("", "/"):
            return
        path = path.rpartition("/")[0] or "/"


def unit_of(cgroup: str) -> tuple[str, bool] | None:
    """Return the systemd service that a text of /proc/PID/cgroup names, and whether it is a user's own."""
    for line in cgroup.splitlines():
        path = line.rpartition(":")[2]
        parts = [part for part in path.split("/") if part.endswith(".service")]
        if parts and not parts[-1].startswith("user@"):
            return parts[-1], any(part.startswith("user@") for part in parts)
    return None


def span(text: str) -> float | None:
    """Seconds of a time as systemd prints it: "1min 30s"; None for "infinity" and what is no time."""
    parts = _SPAN.findall(text)
    return sum(float(number) * _UNITS[unit] for number, unit in parts) if parts else None


def stopped_by(pid: int | None) -> list[StopFacts]:
    """Return who stops a supervisor that runs, and how long it waits."""
    if pid is None:
        return []
    unit = unit_of(_text(f"/proc/{pid}/cgroup") or "")
    if unit is not None:
        seconds = _unit_timeout(*unit)
        fix = f"TimeoutStopSec={{seconds}} in {unit[0]}"
        return [StopFacts(who=f"systemd ({unit[0]})", seconds=seconds, fix=fix)] if seconds is not None else []
    if os.environ.get("KUBERNETES_SERVICE_HOST"):
        fix = "terminationGracePeriodSeconds: {seconds} in the pod"
        return [StopFacts(who="Kubernetes, by default,", seconds=KUBERNETES, fix=fix)]
    if os.path.exists("/.dockerenv") or os.path.exists("/run/.containerenv"):
        fix = "docker run --stop-timeout {seconds}, or stop_grace_period: {seconds}s in compose.yaml"
        return [StopFacts(who="docker, by default,", seconds=DOCKER, fix=fix)]
    return []


def _unit_timeout(unit: str, user: bool) -> float | None:
    words = ["systemctl", *(["--user"] if user else []), "show", unit, "--property=TimeoutStopUSec", "--value"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return span(done.stdout)
