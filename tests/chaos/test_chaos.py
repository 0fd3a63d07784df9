"""Nothing is lost, whatever is done: load on every backend while operations are dealt in an order that a seed decides.

`make chaos SECONDS=60 SEED=n` runs it for so long for each group of backends, with this seed.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.chaos.cases import CASES, Case, missing
from tests.chaos.driver import OPERATIONS
from tests.chaos.run import Run
from tests.chaos.settings import DUMP, LONG, ONLY, REPORTS, SECONDS, SEED
from tests.chaos.world import Makers

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.timeout(4 * SECONDS + 240)]

_CHOSEN = [case for case in CASES if not ONLY or case.name in ONLY]
_NUMBER = -(-len(_CHOSEN) // 4)
GROUPS = [_CHOSEN[start::_NUMBER] for start in range(_NUMBER)]
"""Four at a time: as much as two processors can serve while workers of all of them start."""


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: "+".join(case.name for case in group))
def test_nothing_is_lost(group: list[Case], makers: Makers) -> None:
    """Lost = 0 for each backend and kind; never fewer workers ready than promised; commands end as they should."""
    reasons = {case.name: missing(case) for case in group}
    operations = share(GROUPS.index(group))
    present = [case for case in group if not reasons[case.name]]
    run = Run(present, makers, lambda driver: driver.run(SECONDS, operations))
    report = run.report([f"{name:<25} not run, 0 requests: {why}" for name, why in reasons.items() if why])
    REPORTS.append(report)
    if DUMP:
        run.dump(Path(DUMP))

    assert not run.wrong(), report
    assert os.environ.get("CI") != "true" or not any(reasons.values()), report


def share(position: int) -> list[str]:
    """The operations for a group: all of them in a long run; in a short one each is dealt to one of the groups."""
    names = list(OPERATIONS)
    if LONG or len(GROUPS) < 3:
        return names
    random.Random(SEED).shuffle(names)
    return names[position :: len(GROUPS)]
