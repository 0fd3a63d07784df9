"""What each backend costs under trapeze, beside the same server run natively; and the fastest beside the usual ones.

python bench/servers.py [--only overhead] [--server granian-wsgi] [--rounds 12] [--json]
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence

from trapeze_bench.command import run, say
from trapeze_bench.contestants import CONTESTANTS, best, overhead
from trapeze_bench.serving import Effort
from trapeze_bench.table import Figure

MEASURES: dict[str, Callable[[Sequence[str], Effort], list[Figure]]] = {"overhead": overhead, "best": best}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print; 0 if all are within their bounds, 1 if one is not, 2 if one could not be measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", action="append", choices=MEASURES, help="measure this (may be repeated)")
    names = [each.name for each in CONTESTANTS]
    parser.add_argument("--server", action="append", choices=names, help="these only (may be repeated)")
    parser.add_argument("--rounds", type=int, metavar="N", help="pairs of loads of two seconds; default 12")
    parser.add_argument("--json", action="store_true", help="print JSON with all samples")
    arguments = parser.parse_args(argv)
    effort = dataclasses.replace(Effort(), loads=max(arguments.rounds or 12, 2), say=say)
    chosen = arguments.server or []
    measures = {name: lambda effort, measure=measure: measure(chosen, effort) for name, measure in MEASURES.items()}
    return run(measures, arguments.only or MEASURES, effort, as_json=arguments.json)


if __name__ == "__main__":
    sys.exit(main())
