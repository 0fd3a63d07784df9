"""New code on trial: what was ordered before it, who fills the gaps meanwhile, what is given back when it fails."""

from __future__ import annotations

from functools import partial

import pytest

from tests.support.fakehost import FakeHost
from trapeze.planner import Want
from trapeze.spec import ServiceSpec

shop = partial(ServiceSpec, app="shop:app", socket="web", preload=False, spare=False)
WEB = shop(workers=2)


@pytest.mark.parametrize("workers", [1, 5])
def test_a_failed_reload_gives_the_number_back(workers: int) -> None:
    """Another number in the file, and broken code: as many as before serve on; the right file is right again."""
    host = FakeHost(WEB)
    host.all_ready()
    host.service.adopt(host.make(shop(workers=workers, pre_start="false"), 2))
    host.go()
    host.newest().exit(1)
    host.go()

    assert host.service.want == Want(2, 1)
    host.service.adopt(host.make(WEB, 3))
    assert host.service.want == Want(2, 3)


def test_a_failed_reload_gives_a_scale_back() -> None:
    """Three by hand, the file says five and is broken: three; one that is given meanwhile is for whoever serves."""
    host = FakeHost(WEB)
    host.all_ready()
    host.service.scale(3)
    host.all_ready()
    host.service.adopt(host.make(shop(workers=5, pre_start="false"), 2))
    assert host.service.want.count == 5
    host.go()
    host.newest().exit(1)
    host.go()
    assert host.service.want == Want(3, 1)

    host.service.adopt(host.make(shop(workers=5, pre_start="false"), 3))
    host.service.scale(4)
    host.go()
    host.newest().exit(1)
    host.go()
    assert host.service.want == Want(4, 1)


def test_a_rollback_gives_the_number_back() -> None:
    """With the code comes the number that it ran with; a scale stays where both files say the same."""
    host = FakeHost(WEB)
    host.all_ready()
    first = host.service.current
    host.service.adopt(host.make(shop(workers=3), 2))
    host.roll_out()

    host.service.rollback(first)
    assert host.service.want == Want(2, 1)
    host.roll_out()
    host.service.scale(4)
    host.service.adopt(host.make(WEB, 3))
    host.service.rollback(first)
    assert host.service.want == Want(4, 1)


def test_a_failed_reload_gives_a_start_back() -> None:
    """Started by hand; the file that enables it is broken: what runs, runs on."""
    host = FakeHost(shop(enabled=False))
    host.service.enable()
    host.go()
    host.all_ready()
    host.service.adopt(host.make(shop(pre_start="false"), 2))
    host.go()
    host.newest().exit(1)
    host.go()

    assert host.states() == ["0.1 READY"]
    assert host.service.want == Want(1, 1, enabled=True)


def test_orders_of_generations_that_are_gone_are_forgotten() -> None:
    host = FakeHost(WEB)
    host.all_ready()
    host.service.scale(3)
    for number in range(2, 6):
        host.service.adopt(host.make(WEB, number))
        host.roll_out()

    assert host.service.want.count == 3
    assert set(host.service.orders.given) == {5}
