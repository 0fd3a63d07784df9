"""Run one scenario, for trying: `python -m trapeze_bench.scenarios reload --quick --only trapeze`."""

from __future__ import annotations

import argparse
import sys

import msgspec

from trapeze_bench.command import say
from trapeze_bench.ending import stoppable
from trapeze_bench.results import Scenario
from trapeze_bench.scenarios import SCENARIOS, Interrupted, Setting, UnknownContestant


def main() -> int:
    """0; 1 if it was interrupted; 2 for what was asked wrongly."""
    parser = argparse.ArgumentParser(prog="python -m trapeze_bench.scenarios")
    parser.add_argument("scenario", choices=SCENARIOS)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", action="append", metavar="NAME", help="a contestant (may be repeated)")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=200.0)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    setting = Setting(given.workers, say, given.only, given.seconds, given.quick, rate=given.rate)
    status = 0
    try:
        with stoppable():
            found = SCENARIOS[given.scenario](setting)
    except Interrupted as error:
        found, status = error.scenario, 1
    except UnknownContestant as error:
        parser.error(str(error))
    if given.json:
        print(msgspec.json.encode(found).decode())
    else:
        _show(found)
    return status


def _show(scenario: Scenario) -> None:
    print(f"{scenario.name}: {scenario.question}" + ("" if scenario.finished else " (interrupted)"))
    for standing in scenario.standings:
        mark = {True: "+", False: "-", None: " "}[standing.good]
        print(f"{mark} {standing.name}: {standing.verdict or standing.missing}")


if __name__ == "__main__":
    sys.exit(main())
