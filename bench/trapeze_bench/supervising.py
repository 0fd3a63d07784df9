"""Figures of the supervisor itself: memory, wake-ups and processor time when idle; two hundred processes."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from trapeze_bench import procfs, wire
from trapeze_bench.pairs import NATIVE, OURS
from trapeze_bench.serving import Effort
from trapeze_bench.table import Figure, spread
from trapeze_bench.targets import Failed, Running, environment, program, running, started, until

__all__ = ["fleet", "idle"]

SETTLE = 2.0
"""Seconds after the start in which nothing is counted."""
FLEET = 200
STATUS_ASKED = 20
COMMAND_RUN = 7
"""How many times `trapeze status` is run as a command."""


def idle(effort: Effort) -> list[Figure]:
    """Memory, wake-ups and processor time of the supervisor with four workers that nobody asks."""
    with ExitStack() as stack:
        servers = {target.name: stack.enter_context(running(target)) for target in (OURS["gunicorn"], *NATIVE.values())}
        for server in servers.values():
            server.first_answer()
            server.all_up()
        time.sleep(SETTLE)
        ours = servers[OURS["gunicorn"].name]
        quiet = _watch(servers, effort.idle_seconds)
        fresh = procfs.memory(ours.pid)
        _status_command(ours)
        time.sleep(SETTLE)
        asked = procfs.memory(ours.pid)
        after = _watch({ours.name: ours}, effort.idle_seconds)
        others = {name: procfs.memory(servers[name].pid) for name in NATIVE}
    figures = _idle_figures("idle", quiet, ours.name)
    figures += _idle_figures("idle after `trapeze status`", after, ours.name)
    beside = ", ".join(f"{name} master {other.private:.1f}" for name, other in others.items())
    for name, found in (("idle", fresh), ("idle after `trapeze status`", asked)):
        note = f"PSS {found.pss:.1f} MiB; private, {beside}"
        figures.append(Figure(f"{name}: private memory", found.private, "MiB", at_most=26.0, note=note))
    for figure in figures:
        effort.say(f"{figure.name}: {figure.measured}")
    return figures


def _watch(servers: dict[str, Running], seconds: float) -> dict[str, tuple[float, float]]:
    """Let time pass; return wake-ups per second and per cent of one processor, by server."""
    before = {name: procfs.activity(server.pid) for name, server in servers.items()}
    began = time.monotonic()
    time.sleep(seconds)
    passed = time.monotonic() - began
    found = {}
    for name, server in servers.items():
        now = procfs.activity(server.pid)
        rate = (now.wakeups - before[name].wakeups) / passed
        found[name] = rate, 100 * (now.cpu - before[name].cpu) / passed
    return found


def _idle_figures(what: str, watched: dict[str, tuple[float, float]], ours: str) -> list[Figure]:
    others = [name for name in watched if name != ours]
    wakeups, cpu = watched[ours]
    beside = [", ".join(f"{name} master {watched[name][column]:.3f}" for name in others) for column in (0, 1)]
    return [
        Figure(f"{what}: wake-ups", wakeups, "/s", at_most=0.1, note=beside[0]),
        # 0.0 to one decimal, as top shows it.
        Figure(f"{what}: processor", cpu, "%", at_most=0.05, note=beside[1]),
    ]


def fleet(effort: Effort) -> list[Figure]:
    """Two hundred times sleep as one service: until all are up, the time of a status answer, and the stop."""
    up, door, answer, command, stop = [], [], [], [], []
    left = 0
    for number in range(effort.fleets):
        with started_fleet() as server:
            door.append(_first_status(server))
            up.append(_all_ready(server))
            answer += _times(lambda: _status(server), STATUS_ASKED)
            command += _times(lambda: _status_command(server), COMMAND_RUN)
        stop.append(server.stop_seconds)
        left += len(server.left) + os.path.exists(server.control)
        effort.say(f"{FLEET} x sleep, {number + 1}: all up after {up[-1]:.2f} s, stopped in {stop[-1]:.2f} s")
    note = f"{spread(up, 1, 2)}, the door answers after {spread(door, 1, 2)}; {effort.fleets} times"
    return [
        Figure(f"{FLEET} x sleep: all up", statistics.median(up), "s", at_most=1.0, note=note),
        _millis(f"{FLEET} x sleep: status answers", answer, 50.0, "over the control socket"),
        _millis(f"{FLEET} x sleep: `trapeze status`", command, None, "the whole command, with its own start"),
        Figure(f"{FLEET} x sleep: stop", statistics.median(stop), "s", note=spread(stop, 1, 2)),
        Figure(f"{FLEET} x sleep: left behind", left, "processes and sockets", at_most=0),
    ]


def _millis(name: str, seconds: list[float], bound: float | None, note: str) -> Figure:
    value = 1000 * statistics.median(seconds)
    return Figure(name, value, "ms", at_most=bound, note=f"{spread(seconds, 1000, 1)} of {len(seconds)}; {note}")


def started_fleet() -> Any:
    """Start it in a directory of its own."""
    return _Fleet()


class _Fleet:
    """A directory with a trapeze.toml, and the supervisor that runs it."""

    def __enter__(self) -> Running:
        from tempfile import mkdtemp

        self.directory = mkdtemp(prefix="trapeze-figures-")
        with open(os.path.join(self.directory, "trapeze.toml"), "w") as file:
            file.write(f'[services.sleeper]\ncommand = ["sleep", "1000"]\nworkers = {FLEET}\n')
        self.running = started("trapeze up", [*program("trapeze"), "up"], self.directory)
        return self.running.__enter__()

    def __exit__(self, *error: Any) -> None:
        from shutil import rmtree

        self.running.__exit__(*error)
        rmtree(self.directory)


def _status(server: Running) -> dict[str, Any]:
    answer = wire.get(server.control, "/status")
    if answer.status != 200:
        raise Failed(f"/status: {answer.status} {answer.body[:200]!r}")
    found: dict[str, Any] = json.loads(answer.body)
    return found


def _first_status(server: Running) -> float:
    """Seconds from exec until the door answers."""

    def answers() -> bool:
        server.check()
        try:
            _status(server)
        except wire.Refused:
            return False
        return True

    until(answers, "an answer of the control socket")
    return time.monotonic() - server.began


def _all_ready(server: Running) -> float:
    """Seconds from exec until all are ready, asked each few milliseconds."""
    until(lambda: bool(_status(server)["services"][0]["ready"] == FLEET), f"{FLEET} processes ready")
    return time.monotonic() - server.began


def _status_command(server: Running) -> None:
    argv = [*program("trapeze"), "status", "--json"]
    subprocess.run(argv, env=environment(server.directory), stdout=subprocess.PIPE, timeout=20, check=True)


def _times(ask: Callable[[], object], number: int) -> list[float]:
    """Seconds of each call."""
    found = []
    for _ in range(number):
        began = time.monotonic()
        ask()
        found.append(time.monotonic() - began)
    return found
