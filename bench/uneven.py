"""Short requests beside slow ones, behind nginx: who waits though a worker is free? See README.md here.

python bench/uneven.py [--backend uvicorn] [--seconds 10] [--rounds 3] [--json]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from trapeze_bench.command import run
from trapeze_bench.uneven import CASES, Effort, uneven


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print; 0 if all could be measured, 2 if not."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--backend", action="append", choices=CASES, help="these only (may be repeated)")
    parser.add_argument("--seconds", type=float, default=10.0, metavar="S", help="of each load; default 10")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="default 3")
    parser.add_argument("--json", action="store_true", help="print JSON with all samples")
    arguments = parser.parse_args(argv)
    effort = Effort(arguments.seconds, max(arguments.rounds, 1))
    return run({"uneven": lambda effort: uneven(arguments.backend or list(CASES), effort)}, ["uneven"], effort,
               as_json=arguments.json)  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
