"""Who imports while others serve gives way to them, and is as nice as before when it is done."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support.fakehost import FakeHost
from tests.unit.test_zygotes import deploy, rise, shop, zygote
from trapeze import niceness

needed = pytest.mark.skipif(not niceness.can_be_undone(), reason="needs CAP_SYS_NICE")
THREADS = """
import sys, threading
threading.Thread(target=sys.stdin.read, daemon=True).start()
print("up", flush=True)
threading.Event().wait()
"""


@pytest.fixture
def child() -> Iterator[subprocess.Popen[str]]:
    """A process in which nothing happens yet."""
    popen = subprocess.Popen(
        [sys.executable, "-c", f"input()\n{THREADS}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    yield popen
    popen.kill()
    popen.communicate()


def levels(pid: int) -> set[int]:
    return {os.getpriority(os.PRIO_PROCESS, int(thread)) for thread in os.listdir(f"/proc/{pid}/task")}


@needed
def test_it_is_undone_for_all_threads(child: subprocess.Popen[str]) -> None:
    (before,) = levels(child.pid)
    assert niceness.give_way(child.pid)
    assert child.stdin is not None and child.stdout is not None
    child.stdin.write("\n")
    child.stdin.flush()
    assert child.stdout.readline() == "up\n"
    assert len(os.listdir(f"/proc/{child.pid}/task")) == 2
    assert levels(child.pid) == {before + niceness.MORE}, "a thread is as nice as who made it"
    niceness.hurry(child.pid)
    assert levels(child.pid) == {before}


@needed
def test_who_was_forked_too_early_gets_level(child: subprocess.Popen[str]) -> None:
    (before,) = levels(child.pid)
    niceness.give_way(child.pid)
    niceness.level(child.pid, like=os.getpid())
    assert levels(child.pid) == {before}


def test_trying_it_leaves_no_trace() -> None:
    before = os.getpriority(os.PRIO_PROCESS, 0)
    niceness.can_be_undone.cache_clear()
    niceness.can_be_undone()
    assert os.getpriority(os.PRIO_PROCESS, 0) == before


def test_who_is_gone_is_left_alone() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    assert not niceness.give_way(gone.pid)
    niceness.hurry(gone.pid)
    niceness.level(gone.pid, like=os.getpid())


def test_import_of_a_reload_gives_way_until_it_is_ready() -> None:
    host = FakeHost(shop())
    assert not zygote(host, 1).gives_way, "nobody serves yet: the first start is in a hurry"
    rise(host, 1)

    host.service.adopt(host.make(shop(), 2))
    host.go()
    assert zygote(host, 2).gives_way
    rise(host, 2)

    assert not zygote(host, 2).gives_way
    workers = [host.children[process.pid or 0] for process in host.service.workers()]
    assert not any(worker.gives_way for worker in workers)


def test_workers_that_import_by_themselves_give_way_too() -> None:
    host = FakeHost(shop(preload=False, spare=False))
    host.go()
    host.all_ready()
    host.service.adopt(host.make(shop(preload=False, spare=False), 2))
    host.go()
    new = [host.children[p.pid or 0] for p in host.service.workers_of(2)]
    assert new and all(worker.gives_way for worker in new)
    host.all_ready()
    assert not any(worker.gives_way for worker in new)


def test_a_crash_is_replaced_in_a_hurry() -> None:
    host = FakeHost(shop(preload=False, spare=False))
    host.go()
    host.all_ready()
    host.children[host.service.workers()[0].pid or 0].exit(1)
    host.go()
    (replacement,) = [process for process in host.service.workers() if process.ready_at is None]
    assert not host.children[replacement.pid or 0].gives_way


def test_a_niceness_of_the_file_stays_what_it_is() -> None:
    host = FakeHost(shop(nice=3))
    rise(host, 1)
    deploy(host, 2, shop(nice=3))
    host.service.adopt(host.make(shop(nice=3), 3))
    host.go()
    assert not zygote(host, 3).gives_way
