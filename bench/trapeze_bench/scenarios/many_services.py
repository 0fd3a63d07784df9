"""Ten, a hundred, a thousand processes (`sleep`) under trapeze, supervisord and circusd. (10 and 50 when quick.)

All are processes of one service (program, watcher), with the defaults of each manager. Started counts until all
processes are there, by the kernel's word, 60 s at most. Two seconds later the manager is watched for the time of a
period: per cent of one processor. A status is the whole command (`trapeze status`, `supervisorctl status`, `circusctl
status`), with the start of its Python: the median of five. The stop is from SIGTERM to the manager until it has ended;
after 30 s it is killed.

It is fine if all are there in time, the status answers, and nothing is left behind by the stop.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import NamedTuple

from trapeze_bench import procfs
from trapeze_bench.peers.base import Said, command, ordered
from trapeze_bench.peers.managers import (
    CIRCUS_LINE,
    SUPERVISOR_LINE,
    circus,
    circusctl,
    supervisorctl,
    supervisord,
)
from trapeze_bench.results import Scenario, Standing
from trapeze_bench.scenarios.setting import Setting
from trapeze_bench.scenarios.stage import Entry, contest
from trapeze_bench.targets import Running, program, started, until

__all__ = ["COLUMNS", "run"]

COLUMNS = {
    "processes": "",
    "started": "s",
    "idle CPU": "%",
    "status": "ms",
    "PSS": "MiB",
    "the stop": "s",
    "left": "",
}
PATIENCE = 60.0
SETTLE = 2.0
SLEEP = "sleep 100000"


class Manager(NamedTuple):
    """Something that keeps processes."""

    name: str
    missing: str
    configure: Callable[[str, int], list[str]]
    """From a directory and a number of processes to a command line."""
    status: Callable[[Running], Said]


def _trapeze(directory: str, number: int) -> list[str]:
    path = os.path.join(directory, "trapeze.toml")
    with open(path, "w") as file:
        file.write(f'[services.sleeper]\ncommand = "{SLEEP}"\nworkers = {number}\n')
    return [*program("trapeze"), "up", "-c", path]


def _supervisord(directory: str, number: int) -> list[str]:
    section = f"[program:sleeper]\ncommand={SLEEP}\nnumprocs={number}\nprocess_name=%(process_num)d\n"
    section += "stdout_logfile=NONE\nstderr_logfile=NONE\n"
    return supervisord(directory, section, descriptors=4 * number + 100)


def _circus(directory: str, number: int) -> list[str]:
    return circus(directory, f"[watcher:sleeper]\ncmd = {SLEEP}\nnumprocesses = {number}\n")


def _managers() -> list[Manager]:
    return [
        Manager(
            "trapeze", "", _trapeze, lambda server: ordered(server, [*program("trapeze"), "status"], "trapeze status")
        ),
        Manager(
            "supervisord",
            "" if command("supervisord") else SUPERVISOR_LINE,
            _supervisord,
            lambda server: supervisorctl(server, "status"),
        ),
        Manager(
            "circus", "" if command("circusd") else CIRCUS_LINE, _circus, lambda server: circusctl(server, "status")
        ),
    ]


def run(setting: Setting) -> Scenario:
    """All managers, each with few and with many."""
    question = "What do ten, a hundred and a thousand processes cost their manager?"
    scenario = Scenario("many-services", question, dict(COLUMNS))
    entries = [
        Entry(f"{each.name}, {number}", each.missing, lambda each=each, number=number: _act(each, number, setting))  # type: ignore[misc]
        for number in ((10, 50) if setting.quick else (10, 100, 1000))
        for each in _managers()
    ]
    return contest(scenario, setting, entries)


def _act(manager: Manager, number: int, setting: Setting) -> Standing:
    name = f"{manager.name}, {number}"
    with (
        tempfile.TemporaryDirectory(prefix="trapeze-run-") as home,
        started(name, manager.configure(home, number), home, home) as server,
    ):
        there = until(lambda: _sleeping(server) >= number, "", patience=PATIENCE, must=False, pause=0.02)
        took = time.monotonic() - server.began
        server.check()
        number_there = _sleeping(server)
        time.sleep(SETTLE)
        own = [server.pid, *(pid for pid in procfs.descendants(server.pid) if not _sleeps(pid))]
        share = _share(own, setting.watched)
        pss = sum(procfs.memory(pid).pss for pid in own)
        answers = [manager.status(server) for _ in range(2 if setting.quick else 5)]
    status = statistics.median(each.seconds for each in answers)
    failed = next((each for each in answers if each.code not in (0, None)), None)
    cells: dict[str, float | int | str | None] = {
        "processes": number_there,
        "started": round(took, 2) if there else None,
        "idle CPU": round(share, 3),
        "status": round(1000 * status),
        "PSS": round(pss, 1),
        "the stop": round(server.stop_seconds, 2),
        "left": len(server.left),
    }
    faults = [
        "" if there else f"{number_there} of {number} in {PATIENCE:g} s",
        f"status fails: {failed.words[:60]}" if failed else "",
        f"{len(server.left)} left behind" if server.left else "",
    ]
    verdict = ", ".join(filter(None, faults)) or "ok"
    return Standing(name, cells, verdict, verdict == "ok")


def _sleeps(pid: int) -> bool:
    return procfs.words(pid) == SLEEP.split()


def _sleeping(server: Running) -> int:
    return sum(_sleeps(pid) for pid in procfs.children(server.pid))


def _share(pids: list[int], seconds: float) -> float:
    """Per cent of one processor that they use while time passes."""
    before, began = sum(procfs.activity(pid).cpu for pid in pids), time.monotonic()
    time.sleep(seconds)
    return 100 * (sum(procfs.activity(pid).cpu for pid in pids) - before) / (time.monotonic() - began)
