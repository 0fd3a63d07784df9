"""The figures that trapeze is to reach, side by side with the same servers run natively. See README.md here.

python bench/figures.py [--only start] [--rounds 20] [--quick] [--json]
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence

from trapeze_bench.command import run, say
from trapeze_bench.serving import Effort, kill, start, throughput
from trapeze_bench.supervising import fleet, idle
from trapeze_bench.table import Figure

MEASURES: dict[str, Callable[[Effort], list[Figure]]] = {
    "start": start,
    "idle": idle,
    "kill": kill,
    "throughput": throughput,
    "fleet": fleet,
}
QUICK = Effort(starts=3, kills=3, loads=2, load_seconds=1, idle_seconds=10.0, fleets=1)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print; 0 if all are within their bounds, 1 if one is not, 2 if one could not be measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", action="append", choices=MEASURES, help="measure this (may be repeated)")
    parser.add_argument(
        "--rounds", type=int, metavar="N", help="pairs of starts, and kills; 2.4 as many pairs of loads; default 10"
    )
    parser.add_argument("--quick", action="store_true", help="few and short rounds: to see that it works")
    parser.add_argument("--json", action="store_true", help="print JSON with all samples")
    arguments = parser.parse_args(argv)
    return run(MEASURES, arguments.only or MEASURES, _effort(arguments), as_json=arguments.json)


def _effort(arguments: argparse.Namespace) -> Effort:
    effort = QUICK if arguments.quick else Effort()
    if arguments.rounds is not None:
        rounds = max(arguments.rounds, 1)
        effort = dataclasses.replace(effort, starts=rounds, kills=rounds, loads=max(round(2.4 * rounds), 2))
    return dataclasses.replace(effort, say=say)


if __name__ == "__main__":
    sys.exit(main())
