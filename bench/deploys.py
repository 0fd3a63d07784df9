"""What deploys, crashes and upgrades cost the requests that come meanwhile. See README.md here.

python bench/deploys.py [--only reload] [--backend uvicorn] [--rate 500] [--quick] [--json]
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence

from trapeze_bench.command import run, say
from trapeze_bench.preloading import kill, memory
from trapeze_bench.reloading import reload
from trapeze_bench.sites import BACKENDS, DEFAULT, Extent
from trapeze_bench.table import Figure
from trapeze_bench.undoing import rollback, upgrade

MEASURES: dict[str, Callable[[Extent], list[Figure]]] = {
    "kill": kill,
    "memory": memory,
    "rollback": rollback,
    "upgrade": upgrade,
    "reload": reload,
}
QUICK = Extent(backends=("gunicorn-gthread",), rate=100.0, reloads=1, kills=2, requests=100, undone=1)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print; 0 if all are within their bounds, 1 if one is not, 2 if one could not be measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", action="append", choices=MEASURES, help="measure this (may be repeated)")
    parser.add_argument(
        "--backend",
        action="append",
        choices=[*BACKENDS, "all"],
        help=f"reload these (may be repeated); default: {', '.join(DEFAULT)}",
    )
    parser.add_argument("--kind", action="append", choices=["fresh", "kept"], help="of connections; default: both")
    parser.add_argument("--rate", type=_rate, metavar="N", help="requests per second; default 1000")
    parser.add_argument("--reloads", type=_count, metavar="N", help="default 20")
    parser.add_argument(
        "--rounds", type=_count, metavar="N", help="kills; half as many rollbacks and upgrades; default 12"
    )
    parser.add_argument("--quick", action="store_true", help="little of all: to see that it works")
    parser.add_argument("--json", action="store_true", help="print JSON with all samples")
    arguments = parser.parse_args(argv)
    return run(MEASURES, arguments.only or MEASURES, _extent(arguments), as_json=arguments.json)


def _extent(arguments: argparse.Namespace) -> Extent:
    extent = QUICK if arguments.quick else Extent()
    if arguments.rounds is not None:
        extent = dataclasses.replace(extent, kills=arguments.rounds, undone=max(arguments.rounds // 2, 1))
    backends = BACKENDS if "all" in (arguments.backend or ()) else arguments.backend
    given = {"backends": backends, "kinds": arguments.kind, "rate": arguments.rate, "reloads": arguments.reloads}
    return dataclasses.replace(extent, say=say, **{key: value for key, value in given.items() if value is not None})


def _rate(text: str) -> float:
    rate = float(text)
    if rate < 1:
        raise argparse.ArgumentTypeError("at least 1 request per second")
    return rate


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return count


if __name__ == "__main__":
    sys.exit(main())
