"""What the scripts have in common: run the measurements that were asked for, show the machine and the table."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from trapeze_bench.machine import AUTOGROUP, packages, setting
from trapeze_bench.table import Figure, render
from trapeze_bench.targets import Failed

__all__ = ["run", "say"]

Extent = TypeVar("Extent")
PACKAGES = ("trapeze-server", "gunicorn", "uvicorn", "uvloop", "httptools")
"""What the figures hang on."""


def run(
    measures: Mapping[str, Callable[[Extent], list[Figure]]], names: Iterable[str], extent: Extent, *, as_json: bool
) -> int:
    """Measure, print; 0 if all are within their bounds, 1 if one is not, 2 if one could not be measured."""
    figures: list[Figure] = []
    failed = False
    for name in names:
        try:
            figures += measures[name](extent)
        except Failed as error:
            failed = True
            print(f"{name}: {error}", file=sys.stderr)
    machine = _machine()
    if as_json:
        print(json.dumps({"machine": machine, "figures": [_plain(found) for found in figures]}, indent=2))
    else:
        print(", ".join(f"{key} {value}" for key, value in machine.items()), "\n", sep="\n")
        print(render(figures))
    failed = failed or any(found.value is None for found in figures)
    return 2 if failed else int(any(found.ok is False for found in figures))


def say(text: str) -> None:
    """Progress, for whoever waits."""
    print(f"  {text}", file=sys.stderr, flush=True)


def _plain(figure: Figure) -> dict[str, Any]:
    return {**dataclasses.asdict(figure), "ok": figure.ok}


def _machine() -> dict[str, str]:
    """What the figures hang on. A load well above the number of our own processes means that others were at work."""
    return {
        "processors": str(os.cpu_count()),
        "load": f"{os.getloadavg()[0]:.1f}",
        "autogroup": setting(AUTOGROUP) or "none",
        "Linux": platform.release(),
        "Python": platform.python_version(),
        "trapeze-server": "a checkout",
        **dict.fromkeys(PACKAGES[1:], "missing"),
        **packages(PACKAGES),
    }
