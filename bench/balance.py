"""How evenly the workers share 64 kept connections: natively, under trapeze, and behind nginx. See README.md here.

python bench/balance.py [--server uvicorn] [--way native] [--rounds 5] [--json]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from trapeze_bench.balance import CASES, WAYS, Effort, balance
from trapeze_bench.command import run, say


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print; 0 if all are within their bounds, 1 if one is not, 2 if one could not be measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--server", action="append", choices=CASES, help="these only (may be repeated)")
    parser.add_argument("--way", action="append", choices=WAYS, help="in these ways only (may be repeated)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="openings of all connections; default 5")
    parser.add_argument("--seconds", type=float, default=4.0, metavar="S", help="of load in each; default 4")
    parser.add_argument("--json", action="store_true", help="print JSON with all samples")
    arguments = parser.parse_args(argv)
    effort = Effort(max(arguments.rounds, 1), max(arguments.seconds, 0.5), say=say)
    names, ways = arguments.server or list(CASES), arguments.way or list(WAYS)
    return run({"balance": lambda effort: balance(names, ways, effort)}, ["balance"], effort, as_json=arguments.json)


if __name__ == "__main__":
    sys.exit(main())
