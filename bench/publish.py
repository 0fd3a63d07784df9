"""A full run of the bench: measure, write bench/results/ with its picture, and the tables of the README. `make bench`.

python bench/publish.py [--all] [--part reload] [--redraw] [--rounds 5] [--into DIR]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "backends"), str(ROOT / "bench")]

from trapeze_bench import published  # noqa: E402  (a script: the checkout comes first on the path)
from trapeze_bench.command import say  # noqa: E402
from trapeze_bench.everything import SHORT, BrokenOff, Extent, PartFailed, measure, settle  # noqa: E402
from trapeze_bench.results import Report  # noqa: E402
from trapeze_bench.showing import section  # noqa: E402

RESULTS = ROOT / "bench" / "results"
README = ROOT / "README.md"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and publish; 0 if that is done, 1 if a part could not be measured, 130 if it was broken off."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    directory = arguments.into or RESULTS
    if arguments.quick and directory.resolve() == RESULTS:
        parser.error("--quick: numbers of no worth are not for bench/results: --into DIR")
    if not directory.is_dir():
        parser.error(f"--into {directory}: there is no such directory")
    reports: dict[str, Report] = {}
    if not arguments.redraw:
        try:
            reports = measure(directory, _parts(arguments), _extent(arguments), say)
        except BrokenOff:
            say("broken off: the results are as they were; at the same commit the same command goes on from here")
            return 130
        except PartFailed as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    _publish(directory, {**published.load(directory), **reports})
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--all", action="store_true", help=f"all scenarios; default: {', '.join(SHORT)}")
    parser.add_argument("--part", action="append", choices=published.PARTS, help="measure this (may be repeated)")
    parser.add_argument(
        "--redraw", action="store_true", help="measure nothing: picture, pages and tables from the JSON"
    )
    parser.add_argument("--rounds", type=int, default=Extent.rounds, metavar="N", help="of the studies; default 3")
    parser.add_argument("--seconds", type=int, default=Extent.seconds, metavar="S", help="of each load; default 1")
    parser.add_argument("--connections", type=int, default=Extent.connections, metavar="N", help="default 32")
    parser.add_argument("--into", type=Path, metavar="DIR", help="in place of bench/results; the README stays as it is")
    parser.add_argument("--quick", action="store_true", help="little of all, to see that it works; needs --into")
    return parser


def _parts(arguments: argparse.Namespace) -> Sequence[str]:
    return arguments.part or (published.PARTS if arguments.all else SHORT)


def _extent(arguments: argparse.Namespace) -> Extent:
    return Extent(
        connections=arguments.connections, rounds=arguments.rounds, seconds=arguments.seconds, quick=arguments.quick
    )


def _publish(directory: Path, reports: Mapping[str, Report]) -> None:
    published.write(directory, reports)
    settle(directory)
    if directory.resolve() == RESULTS:
        published.put(README, published.filled(README.read_text(), reports))
        say("written: bench/results and the tables of README.md")
    else:
        say(f"written: {directory}")
    print(section(reports), end="")


if __name__ == "__main__":
    sys.exit(main())
