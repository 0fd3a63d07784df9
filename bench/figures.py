"""The figures that trapeze is to reach, side by side with the same servers run natively. See README.md here.

python bench/figures.py [--only start] [--rounds 20] [--quick] [--json]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from trapeze_bench.serving import Effort, kill, start, throughput
from trapeze_bench.supervising import fleet, idle
from trapeze_bench.table import Figure, render
from trapeze_bench.targets import Failed

MEASURES: dict[str, Callable[[Effort], list[Figure]]] = {
    "start": start,
    "idle": idle,
    "kill": kill,
    "throughput": throughput,
    "fleet": fleet,
}
QUICK = Effort(starts=3, kills=3, loads=2, load_seconds=2, idle_seconds=10.0, fleets=1)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print; 0 if all are within their bounds, 1 if one is not, 2 if one could not be measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", action="append", choices=MEASURES, help="measure this (may be repeated)")
    parser.add_argument(
        "--rounds", type=int, metavar="N", help="pairs of starts and loads, and kills; default 10, 6, 10"
    )
    parser.add_argument("--quick", action="store_true", help="few and short rounds: to see that it works")
    parser.add_argument("--json", action="store_true", help="print JSON with all samples")
    arguments = parser.parse_args(argv)
    figures: list[Figure] = []
    failed = False
    effort = _effort(arguments)
    for name in arguments.only or MEASURES:
        try:
            figures += MEASURES[name](effort)
        except Failed as error:
            failed = True
            print(f"{name}: {error}", file=sys.stderr)
    machine = _machine()
    if arguments.json:
        print(json.dumps({"machine": machine, "figures": [_plain(found) for found in figures]}, indent=2))
    else:
        print(", ".join(f"{key} {value}" for key, value in machine.items()), "\n", sep="\n")
        print(render(figures))
    return 2 if failed else int(any(found.ok is False for found in figures))


def _effort(arguments: argparse.Namespace) -> Effort:
    effort = QUICK if arguments.quick else Effort()
    if arguments.rounds is not None:
        rounds = max(arguments.rounds, 1)
        effort = dataclasses.replace(effort, starts=rounds, kills=rounds, loads=rounds)
    return dataclasses.replace(effort, say=lambda text: print(f"  {text}", file=sys.stderr, flush=True))


def _plain(figure: Figure) -> dict[str, Any]:
    return {**dataclasses.asdict(figure), "ok": figure.ok}


def _machine() -> dict[str, str]:
    """What the figures hang on. A load well above the number of our own processes means that others were at work."""
    found = {
        "processors": str(os.cpu_count()),
        "load": f"{os.getloadavg()[0]:.1f}",
        "autogroup": _setting("/proc/sys/kernel/sched_autogroup_enabled"),
        "Linux": platform.release(),
        "Python": platform.python_version(),
    }
    for package in ("trapeze-server", "gunicorn", "uvicorn", "uvloop", "httptools"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "a checkout" if package == "trapeze-server" else "missing"
    return found


def _setting(path: str) -> str:
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return "none"


if __name__ == "__main__":
    sys.exit(main())
