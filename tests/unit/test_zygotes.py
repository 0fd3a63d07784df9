"""Imports of a service: zygotes, spares, what is kept for a rollback. No operating system."""

from __future__ import annotations

from functools import partial

from tests.support.fakehost import FakeChild, FakeHost
from trapeze import render, report
from trapeze.events import Clock
from trapeze.notify import parse
from trapeze.spec import ServiceSpec

shop = partial(ServiceSpec, app="shop:app", socket="web", workers=2, preload="auto", spare=True)
CLEAN = b'READY=1\nX_TRAPEZE={"interface":"wsgi","backend":"gunicorn","version":"23","unsafe":""}'
UNSAFE = b'READY=1\nX_TRAPEZE={"interface":"wsgi","unsafe":"thread poller"}'
BROKEN = b'X_TRAPEZE_ERROR={"message":"no module named shop","traceback":"Traceback\\nboom"}'


def imports(host: FakeHost) -> list[str]:
    """`role.generation STATE` of what is imported and does not serve, without the heirs."""
    return [f"{p.role}.{p.generation} {p.state.name}" for p in host.service.zygotes.all() if p.role != "heir"]


def zygote(host: FakeHost, generation: int) -> FakeChild:
    """The child that is this generation's zygote."""
    found = [p for p in host.service.zygotes.all() if p.generation == generation]
    return host.children[found[0].pid or 0]


def rise(host: FakeHost, generation: int) -> None:
    """Let the zygote of a generation, then its workers, become ready, and the old ones leave."""
    zygote(host, generation).listener.on_message(CLEAN)
    host.go()
    host.all_ready()
    for _ in range(4):
        host.leave_all()
        host.all_ready()


def deploy(host: FakeHost, number: int, spec: ServiceSpec | None = None) -> None:
    """A reload, to its end."""
    host.service.adopt(host.make(spec or shop(), number))
    host.go()
    rise(host, number)


def test_workers_are_forked_from_one_import() -> None:
    host = FakeHost(shop())
    assert host.states() == []
    assert imports(host) == ["zygote.1 STARTING"]
    assert zygote(host, 1).launch.forks and not zygote(host, 1).launch.fds

    rise(host, 1)

    assert host.states() == ["0.1 READY", "1.1 READY"]
    assert imports(host) == ["zygote.1 READY"]
    assert sum(line.startswith("forked by") for line in host.log) == 2


def test_crash_is_replaced_by_a_fork() -> None:
    host = FakeHost(shop())
    rise(host, 1)
    host.clock += 10
    next(c for c in host.children.values() if c.launch.label.startswith("web[1]")).exit(-9)
    host.go()
    assert sum(line.startswith("forked by") for line in host.log) == 3


def test_unsafe_app_is_spawned_and_has_a_spare() -> None:
    """The process that found it out serves as the first worker; once the service is whole another stands by."""
    host = FakeHost(shop())
    zygote(host, 1).listener.on_message(UNSAFE)
    host.go()
    assert "not preloaded, each worker imports the app by itself: thread poller" in host.log
    assert sum(line.startswith("employed") for line in host.log) == 1
    assert host.states() == ["0.1 STARTING", "1.1 STARTING"]

    host.all_ready()
    assert imports(host) == ["spare.1 STARTING"]
    zygote(host, 1).listener.on_message(CLEAN)
    host.go(10.0)
    next(c for c in host.children.values() if c.launch.label.startswith("web[0]")).exit(-9)
    host.go()

    assert sum(line.startswith("employed") for line in host.log) == 2
    assert imports(host) == []


def test_preload_true_forks_all_the_same() -> None:
    host = FakeHost(shop(preload=True))
    zygote(host, 1).listener.on_message(UNSAFE)
    host.go()
    assert sum(line.startswith("forked by") for line in host.log) == 2


def test_without_preload_there_is_a_spare_only() -> None:
    host = FakeHost(shop(preload=False))
    assert imports(host) == []
    host.all_ready()
    assert imports(host) == ["spare.1 STARTING"]


def test_without_either_there_is_nothing() -> None:
    host = FakeHost(shop(preload=False, spare=False))
    host.all_ready()
    assert imports(host) == []


def test_broken_import_is_a_failed_deploy_at_once() -> None:
    """The old generation, its zygote included, goes on; nobody tries five times."""
    host = FakeHost(shop())
    rise(host, 1)
    host.service.adopt(host.make(shop(), 2))
    host.go()
    assert imports(host) == ["zygote.1 READY", "zygote.2 STARTING"]

    child = zygote(host, 2)
    child.listener.on_message(BROKEN)
    child.exit(3)
    host.go()

    assert host.service.want.generation == 1
    assert host.rollbacks == [(2, "no module named shop")]
    assert host.states() == ["0.1 READY", "1.1 READY"]
    assert imports(host) == ["zygote.1 READY"]


def test_the_generation_before_is_kept() -> None:
    host = FakeHost(shop())
    rise(host, 1)
    deploy(host, 2)
    assert host.service.past == [1]
    assert imports(host) == ["zygote.1 READY", "zygote.2 READY"]

    deploy(host, 3)
    host.leave_all()
    assert host.service.past == [2]
    assert [p.generation for p in host.service.zygotes.all() if p.live and p.role != "heir"] == [2, 3]


def test_rollback_forks_the_old_code_and_back() -> None:
    host = FakeHost(shop())
    rise(host, 1)
    deploy(host, 2)
    assert host.service.predecessor == 1
    host.service.rollback(host.service.generations[1])
    host.go()
    host.all_ready()
    for _ in range(4):
        host.leave_all()
        host.all_ready()

    assert host.states() == ["0.1 READY", "1.1 READY"]
    assert (host.service.good, host.service.predecessor) == (1, 2)
    assert imports(host) == ["zygote.1 READY", "zygote.2 READY"]


def test_rollback_begins_with_all_workers_at_once() -> None:
    """A reload goes on one by one (the control): what is forked shares its memory, what is imported does not."""
    host = FakeHost(shop(workers=4))
    rise(host, 1)
    host.service.adopt(host.make(shop(workers=4), 2))
    host.go()
    zygote(host, 2).listener.on_message(CLEAN)
    host.go()
    assert sum("STARTING" in state for state in host.states()) == 1
    rise(host, 2)

    host.service.rollback(host.service.generations[1])
    host.go()

    assert [state for state in host.states() if "STARTING" in state] == [f"{index}.1 STARTING" for index in range(4)]
    assert sum(".2 READY" in state for state in host.states()) == 4, "and nobody has left yet"


def test_rollback_in_the_middle_of_a_reload() -> None:
    """Back to what still serves."""
    host = FakeHost(shop())
    rise(host, 1)
    host.service.adopt(host.make(shop(), 2))
    host.go()
    assert host.service.predecessor == 1


def test_nothing_is_kept_on_request() -> None:
    host = FakeHost(shop(keep_generations=0))
    rise(host, 1)
    deploy(host, 2, shop(keep_generations=0))
    assert host.service.past == []
    assert host.service.predecessor is None
    assert [p.generation for p in host.service.zygotes.all() if p.live and p.role != "heir"] == [2]


def test_kept_generations_hold_no_sockets() -> None:
    """An address that was moved must not stay open with nobody behind it."""
    host = FakeHost(shop())
    rise(host, 1)
    deploy(host, 2)
    assert [made.number for made in host.service.retained()] == [2]


def test_zygote_that_dies_is_imported_anew() -> None:
    host = FakeHost(shop())
    rise(host, 1)
    host.clock += 10
    zygote(host, 1).exit(-9)
    host.go()
    assert any("the zygote of generation 1 ended" in line for line in host.log)
    host.go(1.0)
    assert imports(host) == ["zygote.1 STARTING"]
    assert host.states() == ["0.1 READY", "1.1 READY"]


def test_zygote_that_cannot_be_made_again_is_no_failed_service() -> None:
    """The workers serve; the next one imports by itself, and that is what counts. It is tried again, and said once."""
    host = FakeHost(shop())
    rise(host, 1)
    zygote(host, 1).exit(-9)
    host.go()
    for _ in range(3):
        child = zygote(host, 1)
        child.listener.on_message(BROKEN)
        child.exit(3)
        host.go()
        assert (host.service.zygotes.why_not(host.service.current) or "").startswith("the import failed")
        while not imports(host):
            host.go(0.5)

    assert host.service.want.generation == 1
    assert not host.service.ledger.history.exhausted
    assert sum("cannot import" in line for line in host.log) == 1
    zygote(host, 1).listener.on_message(CLEAN)
    host.go()
    assert host.service.zygotes.why_not(host.service.current) == ""
    assert imports(host) == ["zygote.1 READY"]


def test_failed_spare_is_tried_again_later_and_later() -> None:
    host = FakeHost(shop(preload=False))
    host.all_ready()
    delays = []
    for _ in range(5):
        before = host.clock
        zygote(host, 1).exit(3)
        host.go()
        while not imports(host):
            host.go(0.25)
        delays.append(host.clock - before)
    assert delays == sorted(delays)
    assert delays[-1] >= 2.0


def test_stop_ends_the_imports_too() -> None:
    host = FakeHost(shop())
    rise(host, 1)
    child = zygote(host, 1)
    host.service.disable()
    host.go()
    assert child.signals
    assert all(not process.live for process in host.service.processes.values())


def test_zygote_that_cannot_fork_fails_the_spawn() -> None:
    host = FakeHost(shop())
    zygote(host, 1).listener.on_message(CLEAN)
    host.go()
    process = host.service.workers()[0]
    host.service.unborn(process, "the zygote ended")
    host.go()
    assert process.id not in host.service.processes
    assert len(host.service.workers()) == 2


# -- heirs ------------------------------------------------------------------------------------------------------------


def heirs(host: FakeHost) -> list[str]:
    return [f"heir.{p.generation} {p.state.name}" for p in host.service.zygotes.all() if p.role == "heir"]


def the(host: FakeHost, role: str) -> FakeChild:
    return next(host.children[p.pid or 0] for p in host.service.zygotes.all() if p.role == role)


def whole(host: FakeHost) -> None:
    """Heirs are forked when everything else is there."""
    host.go()
    the(host, "heir").listener.on_message(CLEAN)
    host.go()


def test_a_zygote_has_an_heir() -> None:
    """Forked from it, with a line of its own, once the service is whole; it makes no workers yet."""
    host = FakeHost(shop())
    zygote(host, 1).listener.on_message(CLEAN)
    host.go()
    assert heirs(host) == []
    host.all_ready()
    assert heirs(host) == ["heir.1 STARTING"]
    first = the(host, "zygote")
    assert f"heir of {first.pid}" in host.log
    assert the(host, "heir").launch.forks

    whole(host)
    host.service.scale(3)
    host.go()
    assert host.log.count(f"forked by {first.pid}") == 3
    assert heirs(host) == ["heir.1 READY"]


def test_an_heir_takes_the_place_of_a_zygote_that_is_killed() -> None:
    """Nothing is imported, workers are forked from it, and it gets an heir of its own."""
    host = FakeHost(shop())
    rise(host, 1)
    whole(host)
    heir = the(host, "heir")
    the(host, "zygote").exit(-9)
    host.go()

    assert imports(host) == ["zygote.1 READY"]
    assert the(host, "zygote") is heir
    assert any("its heir takes its place, nothing is imported anew" in line for line in host.log)
    host.go(10.0)
    assert f"heir of {heir.pid}" in host.log
    host.newest().exit(-9)
    host.go()
    assert host.service.zygotes.again == {}
    assert report.service_status(host.service, 0.0, Clock(host.now, 0.0), lambda pid: 0).imported_again is None


def test_an_heir_that_is_killed_is_replaced() -> None:
    host = FakeHost(shop())
    rise(host, 1)
    whole(host)
    first = the(host, "heir")
    host.clock += 100.0
    first.exit(-9)
    host.go()
    assert imports(host) == ["zygote.1 READY"]
    host.go(10.0)
    assert heirs(host) == ["heir.1 STARTING"]
    assert host.service.ledger.restarts == 0


def test_an_heir_that_cannot_be_forked_is_no_failure() -> None:
    """It is tried again; the service is as well as ever."""
    host = FakeHost(shop())
    zygote(host, 1).listener.on_message(CLEAN)
    host.go()
    host.service.heard(host.service.workers()[0], parse(CLEAN))
    host.fail_spawns = [OSError(11, "Resource temporarily unavailable")]
    host.service.heard(host.service.workers()[1], parse(CLEAN))
    host.go()
    assert heirs(host) == []
    assert host.service.ledger.failure == ""
    assert host.states() == ["0.1 READY", "1.1 READY"]
    host.go(30.0)
    assert heirs(host) == ["heir.1 STARTING"]


def test_what_is_kept_for_a_rollback_needs_no_heir() -> None:
    host = FakeHost(shop())
    rise(host, 1)
    whole(host)
    host.service.adopt(host.make(shop(), 2))
    host.go()
    assert heirs(host) == ["heir.1 READY"], "until the new generation is good, it is the old one that must not be lost"
    rise(host, 2)
    assert [line for line in heirs(host) if "STOPPING" not in line] == ["heir.2 STARTING"]


def test_both_are_killed() -> None:
    """Then there is nothing left to go on with: that is done and said, and stays said."""
    host = FakeHost(shop())
    rise(host, 1)
    whole(host)
    the(host, "heir").exit(-9)
    the(host, "zygote").exit(-9)
    host.go()
    host.go(10.0)
    assert imports(host) == ["zygote.1 STARTING"]
    the(host, "zygote").listener.on_message(CLEAN)
    host.go()
    status = report.service_status(host.service, 0.0, Clock(host.now, 0.0), lambda pid: 0)
    assert status.imported_again == host.clock
    row = render._service_row(status, host.clock + 60.0)
    assert "imported once more 1 min ago, from what was on the disk then" in row[-1]
    deploy(host, 2)
    assert report.service_status(host.service, 0.0, Clock(host.now, 0.0), lambda pid: 0).imported_again is None


def test_stopped_and_started_is_another_generation() -> None:
    """What was in memory is gone: the number says that the code was read again."""
    host = FakeHost(shop())
    rise(host, 1)
    host.service.disable()
    host.go()
    host.leave_all()
    for child in list(host.children.values()):
        child.exit(0)
    host.go(1.0)
    host.service.enable()
    host.go()
    rise(host, 2)
    assert host.service.zygotes.again == {}
