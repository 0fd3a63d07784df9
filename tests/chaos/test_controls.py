"""The suite can fail: with a mechanism switched off, it says what is lost or broken."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from tests.chaos.cases import CASES
from tests.chaos.driver import Driver
from tests.chaos.records import RESET, UNFINISHED, WRONG_STATUS
from tests.chaos.run import Run
from tests.chaos.world import Makers

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.timeout(120)]

PAIR = [case for case in CASES if case.name in ("gunicorn-gthread", "uvicorn-uvloop")]


def _reloads(driver: Driver) -> None:
    for _ in range(3):
        for shop in driver.world.shops:
            driver.reload(shop)


def test_without_draining_requests_are_lost(makers: Makers) -> None:
    """`drain_grace = 0` and SIGKILL in the place of the stop signal: every backend loses some, and none is excepted."""
    run = Run(PAIR, makers, _reloads, settings={"drain_grace": 0, "stop_timeout": 0})

    names = {each.record.service for each in run.lost()}
    assert names == {case.name for case in PAIR}, run.report([])
    assert {each.record.outcome for each in run.lost()} <= {RESET, UNFINISHED, WRONG_STATUS}
    assert not any(each.excepted for each in run.verdicts), "a kill that the driver did not order excuses nothing"


def test_break_before_make_is_seen(makers: Makers) -> None:
    """Old ones leave first: fewer are ready than the suite demands."""
    run = Run(PAIR[:1], makers, _reloads, settings={"max_unavailable": 2, "max_surge": 0})

    assert any("ready, floor 2" in each for each in run.breaches()), run.report([])


def test_a_crash_that_nobody_ordered_is_seen(makers: Makers) -> None:
    """A worker that ends by itself is a finding, though its replacement comes at once."""

    def script(driver: Driver) -> None:
        (shop,) = driver.world.shops
        os.kill(driver.world.server.pids(shop.name)[0], signal.SIGKILL)
        driver.world.server.ready()
        threading.Event().wait(0.3)  # time in which load comes

    run = Run(PAIR[:1], makers, script)

    assert any("ended unasked: killed by SIGKILL" in each for each in run.breaches()), run.report([])
    assert not any(each.excepted for each in run.verdicts)
