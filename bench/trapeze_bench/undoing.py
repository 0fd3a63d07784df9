"""Figures of going back and of going on: `rollback` to the code that served before, `upgrade` of trapeze in place."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from contextlib import ExitStack
from typing import Self

from trapeze_bench import procfs, wire
from trapeze_bench.loads import KEPT, counted, loaded
from trapeze_bench.openloop import Plan, Result
from trapeze_bench.preloading import HEAVY
from trapeze_bench.sites import BACKENDS, Extent, NotAvailable, Site, Web, serving
from trapeze_bench.table import Figure, spread
from trapeze_bench.targets import APPS, Failed, environment, program, until

__all__ = ["rollback", "upgrade"]

AFTER = 0.3
"""Seconds for which answers are looked at when a rollback says that it is done."""
WARM = 2.0
APART = 1.0
"""Seconds between upgrades."""


class Asking:
    """Runs `_run` in a thread, from the beginning of a `with` block to its end, when `over` is set."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.over.set()
        self.thread.join()

    def _run(self) -> None:
        raise NotImplementedError


class Watch(Asking):
    """Asks one question after the other on new connections, in a thread; knows when the last unwanted answer came."""

    def __init__(self, port: int, wanted: str) -> None:
        super().__init__()
        self.port = port
        self.wanted = wanted
        self.last_other = 0.0
        """Monotonic seconds."""
        self.right: set[int] = set()
        """Pids of those who answered as wanted."""
        self.error = ""

    def _run(self) -> None:
        while not self.over.is_set():
            try:
                words = wire.get(("127.0.0.1", self.port)).body.split()
            except OSError as error:
                self.error = f"a request was lost: {error}"
                return
            if words[0].decode() == self.wanted:
                self.right.add(int(words[-1]))
            else:
                self.last_other = time.monotonic()


def rollback(extent: Extent) -> list[Figure]:
    """Milliseconds from the order until all workers answer with the old code."""
    name = "rollback until all answer with the old code"
    with tempfile.TemporaryDirectory(prefix="trapeze-code-") as directory:
        path = os.path.join(directory, "heavy_django.py")
        shutil.copyfile(APPS / "heavy_django.py", path)
        try:
            with serving("trapeze", Web(app=HEAVY, more={"preload": True}), directory) as site:
                found = [_rolled_back(site, path, f"new-{number}") for number in range(extent.undone)]
        except NotAvailable as error:
            return [Figure(name, None, "ms", at_most=300.0, note=str(error))]
    note = f"{spread(found)}; {len(found)} times, of the Django app, the broken code still on the disk"
    figure = Figure(name, statistics.median(found), "ms", at_most=300.0, note=note, samples={"trapeze": found})
    extent.say(f"{figure.name}: {figure.measured}, {note}")
    return [figure]


def _rolled_back(site: Site, path: str, version: str) -> float:
    """Deploy another version, break the code on the disk, go back."""
    with open(path) as file:
        good = file.read()
    marked = good.replace('VERSION = "one"', f'VERSION = "{version}"')
    if marked == good:
        raise Failed(f"{path}: there is no VERSION to change")
    _write(path, marked)
    site.order("reload")
    site.drained()
    _write(path, "raise SystemExit('nobody is to import this')\n")
    with Watch(site.server.port, "one") as watch:
        until(lambda: watch.last_other > 0 or bool(watch.error), "an answer of the new code")
        began = time.monotonic()
        site.order("rollback")
        done = time.monotonic()
        workers = set(site.workers())
        until(lambda: watch.right >= workers or bool(watch.error), "an answer of each worker by the old code")
        time.sleep(max(0.0, done + AFTER - time.monotonic()))
    if watch.error:
        raise Failed(f"rollback: {watch.error}\n{site.server.output()}")
    _write(path, good)
    return 1000 * (max(done, watch.last_other) - began)


def _write(path: str, text: str) -> None:
    """As a deploy does: whole or not at all."""
    with open(path + ".new", "w") as file:
        file.write(text)
    os.replace(path + ".new", path)


class Door(Asking):
    """Asks the control socket again and again, in a thread; knows the longest that an answer took."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.site = site
        self.longest = 0.0
        """Seconds, refusals and broken answers included."""

    def _run(self) -> None:
        asked = time.monotonic()
        while not self.over.is_set():
            try:
                wire.get(self.site.server.control, "/status")
            except OSError:
                time.sleep(0.001)
                continue  # not answered yet: it is still the same question
            self.longest = max(self.longest, time.monotonic() - asked)
            time.sleep(0.005)
            asked = time.monotonic()


def upgrade(extent: Extent) -> list[Figure]:
    """Milliseconds for which the control socket does not answer, and requests lost meanwhile."""
    names = ["upgrade: pause of the control socket", "upgrade: requests lost"]
    argv = [*program("trapeze"), "upgrade"]
    with serving("trapeze", BACKENDS["gunicorn-gthread"]) as site:
        env = environment(site.server.directory)
        if subprocess.run([*argv, "--help"], env=env, capture_output=True, timeout=30).returncode:
            note = "this trapeze knows no `upgrade`"
            return [Figure(names[0], None, "ms", 200.0, note=note), Figure(names[1], None, "requests", 0, note=note)]
        with ExitStack() as stack:
            loads = [
                stack.enter_context(loaded(Plan(site.server.port, extent.rate / 2, kept, seed=kept)))
                for kept in (0, KEPT)
            ]
            time.sleep(WARM)
            without = _undisturbed(site)
            pauses = [_upgraded(site, argv, env) for _ in range(extent.undone)]
            results = [load.stop() for load in loads]
    note = f"{spread(pauses)}; {len(pauses)} upgrades at {extent.rate:g} requests/s; without {without:.0f} ms"
    figures = [
        Figure(names[0], max(pauses), "ms", 200.0, note=f"the longest; {note}", samples={"trapeze": pauses}),
        _lost(names[1], results),
    ]
    extent.say("; ".join(f"{figure.name}: {figure.measured}, {figure.note}" for figure in figures))
    return figures


def _lost(name: str, results: list[Result]) -> Figure:
    lost = [each for result in results for each in result.lost]
    longest = max(took for result in results for took in result.took)
    note = f"of {sum(len(result.due) for result in results) + len(lost)}, half of them on kept connections"
    note += f"; longest {1000 * longest:.0f} ms" + (f"; {counted(lost)}" if lost else "")
    return Figure(name, len(lost), "requests", 0, note=note)


def _upgraded(site: Site, argv: list[str], env: dict[str, str]) -> float:
    """Milliseconds of the longest answer.

    The supervisor is to be the same process with another program in it (the kernel's word, not its own), the workers
    the same processes.
    """
    before, program_before = site.workers(), procfs.image(site.server.pid)
    with Door(site) as door:
        time.sleep(0.2)
        done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60)
        time.sleep(APART)
    if done.returncode:
        raise Failed(f"trapeze upgrade: status {done.returncode}\n{done.stderr}\n{site.server.output()}")
    site.server.check()
    if procfs.image(site.server.pid) == program_before:
        raise Failed("after an upgrade the supervisor is still the program that it was")
    if site.workers() != before:
        raise Failed(f"after an upgrade the workers are {site.workers()}, before it {before}")
    return 1000 * door.longest


def _undisturbed(site: Site) -> float:
    """Milliseconds of the longest answer in the same time under the same load, without an upgrade."""
    with Door(site) as door:
        time.sleep(APART + 1.0)
    return 1000 * door.longest
