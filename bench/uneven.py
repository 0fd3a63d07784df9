"""Short requests beside slow ones, behind nginx: who waits though a worker is free? See README.md here.

python bench/uneven.py [--backend uvicorn] [--way "none kept"] [--seconds 10] [--rounds 3] [--markdown | --json]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from trapeze_bench.command import run, say
from trapeze_bench.table import Figure
from trapeze_bench.targets import Failed
from trapeze_bench.uneven import CASES, WAYS, Effort, figures, markdown, measure


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print; 0 if all could be measured, 2 if not."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--backend", action="append", choices=CASES, help="these only (may be repeated)")
    parser.add_argument("--way", action="append", choices=WAYS, help="in these ways only (may be repeated)")
    parser.add_argument("--seconds", type=float, default=10.0, metavar="S", help="of each load; default 10")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="default 3")
    parser.add_argument("--markdown", action="store_true", help="print the table of the guide")
    parser.add_argument("--json", action="store_true", help="print JSON with all samples")
    arguments = parser.parse_args(argv)
    effort = Effort(arguments.seconds, max(arguments.rounds, 1), say)
    names, ways = arguments.backend or list(CASES), arguments.way or list(WAYS)
    if arguments.markdown:
        try:
            print(markdown(measure(names, ways, effort)))
        except Failed as error:
            print(f"uneven: {error}", file=sys.stderr)
            return 2
        return 0

    def uneven(effort: Effort) -> list[Figure]:
        return figures(measure(names, ways, effort))

    return run({"uneven": uneven}, ["uneven"], effort, as_json=arguments.json)


if __name__ == "__main__":
    sys.exit(main())
