"""New code on trial: what was ordered before it, who fills the gaps meanwhile, what is given back when it fails."""

from __future__ import annotations

from functools import partial

import pytest

from tests.support.fakehost import FakeChild, FakeHost
from trapeze import report
from trapeze.lifecycle import State
from trapeze.planner import Want
from trapeze.spec import RestartSpec, ServiceSpec
from trapeze.status import Status

shop = partial(ServiceSpec, app="shop:app", socket="web", preload=False, spare=False)
WEB = shop(workers=2)
FORKED = ServiceSpec(app="shop:app", socket="web", workers=2)
FORKED_WITH_STEP = ServiceSpec(app="shop:app", socket="web", workers=2, pre_start="migrate")
CLEAN = b'READY=1\nX_TRAPEZE={"interface":"wsgi","backend":"gunicorn","version":"23","unsafe":""}'
BROKEN = b'X_TRAPEZE_ERROR={"message":"no module named shop","traceback":"Traceback\\nboom"}'


def status(host: FakeHost) -> tuple[Status, str]:
    return report.judge(host.service)


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


# ---- who fills the gaps ----


def importing(spec: ServiceSpec = FORKED, number: int = 2) -> FakeHost:
    """A service that serves, and a reload of it whose import goes on."""
    host = FakeHost(FORKED)
    host.newest().listener.on_message(CLEAN)
    host.go()
    host.all_ready()
    host.go(60.0)
    host.service.adopt(host.make(spec, number))
    host.go()
    return host


def workers(host: FakeHost) -> list[FakeChild]:
    return [host.children[process.pid or 0] for process in host.service.workers()]


def test_all_killed_during_an_import() -> None:
    """They come back at once, forked from the zygote of the generation that served."""
    host = importing()
    assert status(host) == (Status.ROLLING, "waiting for the import of shop:app, 2 ready")

    for child in workers(host):
        child.exit(-9)
    host.go()

    assert host.states() == ["0.1 STARTING", "1.1 STARTING"]
    assert [line.startswith("forked by") for line in host.log].count(True) == 4
    host.all_ready()
    assert status(host) == (Status.ROLLING, "waiting for the import of shop:app, 2 ready")
    zygote = next(process for process in host.service.zygotes.all() if process.generation == 2)
    host.children[zygote.pid or 0].listener.on_message(CLEAN)
    host.go()
    host.roll_out()
    assert host.states() == ["0.2 READY", "1.2 READY"]


def test_all_killed_during_a_migration() -> None:
    """pre_start commands are the new generation's; the old one need not wait for them."""
    host = importing(FORKED_WITH_STEP)
    for child in workers(host):
        child.exit(-9)
    host.go()

    assert host.states() == ["0.1 STARTING", "1.1 STARTING"]


def test_killed_while_the_new_code_backs_off() -> None:
    """The new one dies without a word, again and again, and is waited for; what serves is replaced at once."""
    host = FakeHost(WEB)
    host.all_ready()
    host.go(60.0)
    host.service.adopt(host.make(WEB, 2))
    for _ in range(2):
        host.go()
        host.newest().exit(-9)
    host.go()
    assert host.states() == ["0.1 READY", "1.1 READY"]
    assert host.service.ledger.history.not_before > host.clock

    min(host.children.values(), key=lambda child: child.pid).exit(-9)
    host.go()

    assert host.states() == ["0.1 STARTING", "1.1 READY"]


def test_scale_up_during_an_import() -> None:
    host = importing()
    host.service.scale(3)
    host.go()

    assert host.states() == ["0.1 READY", "1.1 READY", "2.1 STARTING"]


def test_recycled_during_an_import() -> None:
    """One at a time, by their own kind, as if there were no reload."""
    host = importing()
    for child in workers(host):
        child.listener.on_message(b"X_TRAPEZE_RECYCLE=has served enough")
    host.go()
    assert host.states() == ["0.1 READY", "0.1 STARTING", "1.1 READY"]

    host.all_ready()
    assert [process.why for process in host.service.workers() if process.state is State.STOPPING] == [
        "recycled: has served enough"
    ]


def test_those_that_stand_in_have_delays_of_their_own() -> None:
    """The old code cannot be started any more either: no loop without end; and the new one's failures are its own."""
    host = importing()
    for child in workers(host):
        child.exit(-9)
    host.go()
    for _ in range(3):
        for child in workers(host):
            child.exit(3)
        host.go()

    assert host.states() == []
    assert host.service.ledger.standing.streak == 2
    assert host.service.ledger.history.streak == 0
    assert host.service.wake_at == host.service.ledger.standing.not_before
    host.go(host.service.wake_at - host.clock)
    assert host.states() == ["0.1 STARTING", "1.1 STARTING"]


def test_a_reload_that_fails_with_a_few_that_stand_in() -> None:
    """They are what is wanted again: nobody is started twice."""
    host = importing()
    for child in workers(host):
        child.exit(-9)
    host.go()
    zygote = next(process for process in host.service.zygotes.all() if process.generation == 2)
    host.children[zygote.pid or 0].listener.on_message(BROKEN)
    host.children[zygote.pid or 0].exit(3)
    host.go()

    assert host.rollbacks == [(2, "no module named shop")]
    assert host.states() == ["0.1 STARTING", "1.1 STARTING"]
    host.all_ready()
    assert status(host) == (Status.RUNNING, "2 of 2 ready")


def test_an_old_worker_that_had_served_well_says_nothing_for_the_new_code() -> None:
    """Its end forgives nothing: the failures of the new code are counted to their end."""
    policy = RestartSpec(intensity=3, backoff=0.0)
    host = FakeHost(shop(workers=2, restart=policy))
    host.all_ready()
    host.go(60.0)
    host.service.adopt(host.make(shop(workers=2, restart=policy), 2))
    for _ in range(3):
        host.go()
        new = next(p for p in host.service.workers() if p.generation == 2)
        old = next(p for p in host.service.workers() if p.generation == 1 and p.state is State.READY)
        host.children[new.pid or 0].exit(-9)
        host.children[old.pid or 0].exit(-9)
        for process in host.service.workers():
            if process.generation == 1 and process.state is State.STARTING:
                host.children[process.pid or 0].ready()
        host.clock += 6.0

    assert host.rollbacks


def test_nobody_stands_in_after_a_stop() -> None:
    """Stopped, reloaded, started: there is nothing to keep up, and the old code is no longer in memory."""
    host = FakeHost(FORKED)
    host.newest().listener.on_message(CLEAN)
    host.go()
    host.all_ready()
    host.service.disable()
    host.go()
    for child in list(host.children.values()):
        child.exit(0)
    host.service.adopt(host.make(FORKED, 2))
    host.service.enable()
    host.go()

    assert host.states() == []
    assert [process.generation for process in host.service.zygotes.all()] == [2]


def test_a_task_has_nobody_that_stands_in() -> None:
    """What would not have been replaced is not replaced during a reload either."""
    host = FakeHost(shop(workers=2, restart="never"))
    host.all_ready()
    host.service.adopt(host.make(shop(workers=2, pre_start="true"), 2))
    host.go()
    for process in host.service.workers():
        host.children[process.pid or 0].exit(-9)
    host.go()

    assert host.states() == []


def test_a_start_after_a_stop_is_another_generation() -> None:
    """Its code comes from the disk again, which need not be what was deployed; a scale stays."""
    host = FakeHost(FORKED)
    host.newest().listener.on_message(CLEAN)
    host.go()
    host.all_ready()
    host.service.scale(3)
    host.all_ready()
    host.service.disable()
    host.go()
    for child in list(host.children.values()):
        child.exit(0)

    host.service.enable()
    host.go()

    assert host.service.want == Want(3, 2)
    assert host.newest().launch.env["TRAPEZE_GENERATION"] == "2"
    assert (host.newest().launch.job or {})["generation"] == 2
    host.newest().listener.on_message(CLEAN)
    host.go()
    host.all_ready()
    assert host.states() == ["0.2 READY", "1.2 READY", "2.2 READY"]
    host.service.enable()
    assert host.service.want.generation == 2, "it runs"


def test_a_first_start_is_the_first_generation() -> None:
    host = FakeHost(shop(enabled=False))
    host.service.enable()
    host.go()

    assert host.states() == ["0.1 STARTING"]


def test_a_start_that_fails_is_no_deploy_that_fails() -> None:
    """There is nothing to go back to: it is tried again, under its number."""
    host = FakeHost(WEB)
    host.all_ready()
    host.service.disable()
    host.go()
    for child in list(host.children.values()):
        child.exit(0)
    host.service.enable()
    for _ in range(6):
        host.go(1.0)
        for child in list(host.children.values()):
            child.exit(3)
    host.go()

    assert status(host)[0] is Status.FAILED
    assert host.rollbacks == []
    assert host.service.want.generation == 2
