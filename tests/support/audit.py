"""After every test: nothing is left.

No child process or orphan, no zombie, no descriptor in the pytest process, no socket file, no ERROR line of a
supervisor that the test did not announce. Pytest is made the reaper of its descendants' orphans, so whatever a
supervisor leaves behind becomes a child of pytest and is seen here; `test_audit.py` proves of each part that it fails.

The audit is the first fixture of every test, so it looks after all others are gone. What module or session fixtures
hold is there before it looks for the first time, and so is no finding.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import os
import select
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

__all__ = ["Audit", "Finding", "children", "descriptors", "socket_files"]

PR_SET_CHILD_SUBREAPER = 36
GRACE = 1.0
"""Seconds that a process which is on its way out may still take."""

Finding = str

_own: set[int] = set()
"""Pids that this process itself started: it must also wait for them. Other children are adopted orphans."""


def pytest_configure(config: pytest.Config) -> None:
    """Adopt orphans, and note who is started by pytest itself."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if not getattr(subprocess.Popen.__init__, "_audited", False):
        _note_popen()
        for name in ("fork", "posix_spawn", "posix_spawnp"):
            _note_pid(name)


def _note_popen() -> None:
    original = subprocess.Popen.__init__

    @functools.wraps(original)
    def noting(self: subprocess.Popen[bytes], *args: object, **kwargs: object) -> None:
        original(self, *args, **kwargs)  # type: ignore[call-overload]
        _own.add(self.pid)

    noting._audited = True  # type: ignore[attr-defined]
    setattr(subprocess.Popen, "__init__", noting)  # noqa: B010  (an assignment is what mypy forbids)


def _note_pid(name: str) -> None:
    original: Callable[..., int] = getattr(os, name)

    @functools.wraps(original)
    def noting(*args: object, **kwargs: object) -> int:
        pid = original(*args, **kwargs)
        if pid:
            _own.add(pid)
        return pid

    setattr(os, name, noting)


# -- what there is ----------------------------------------------------------------------------------------------------


def children() -> set[int]:
    """Pids of all children of this process, zombies included."""
    found: set[int] = set()
    for task in os.listdir("/proc/self/task"):
        try:
            found.update(map(int, Path(f"/proc/self/task/{task}/children").read_text().split()))
        except FileNotFoundError:
            continue  # a thread that has just ended
    return found


def _stat(pid: int) -> tuple[str, str]:
    """State letter and command line of a process; state "" when it is gone."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return "", ""
    return state, " ".join(words).strip()[:300]


def descriptors() -> dict[int, str]:
    """Open descriptors of this process and what they lead to."""
    found: dict[int, str] = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # the one that listdir itself used
    return found


def socket_files(directory: Path) -> set[Path]:
    """Socket files in a directory and below it."""
    found: set[Path] = set()
    for where, _, names in os.walk(directory):
        for name in names:
            path = Path(where, name)
            try:
                if stat.S_ISSOCK(path.lstat().st_mode):
                    found.add(path)
            except FileNotFoundError:
                continue
    return found


def _usual_runtime_directories() -> list[Path]:
    """Where a supervisor puts its socket when the test forgot to say where."""
    usual = [Path("/run/trapeze"), Path(f"/tmp/trapeze-{os.getuid()}")]
    if "XDG_RUNTIME_DIR" in os.environ:
        usual.append(Path(os.environ["XDG_RUNTIME_DIR"], "trapeze"))
    return usual


# -- the audit --------------------------------------------------------------------------------------------------------


class Audit:
    """What was there before one test; `findings` compares."""

    def __init__(self) -> None:
        self.directories: list[Path] = []
        self._allowed: set[Path] = set()
        self._outputs: list[Callable[[], list[str]]] = []
        self._cleanups: list[Callable[[], None]] = []
        _own.clear()
        self._children = children()
        self._usual = {path for directory in _usual_runtime_directories() for path in socket_files(directory)}
        self._descriptors = descriptors()

    def watch(self, directory: Path) -> None:
        """Look for socket files in this directory too (tmp_path is looked at anyhow)."""
        self.directories.append(directory)

    def allow_socket(self, path: Path | str) -> None:
        """Announce a socket file that stays because the test is about one that stays."""
        self._allowed.add(Path(path))

    def add_output(self, unannounced: Callable[[], list[str]]) -> None:
        """Ask this function at the end for ERROR lines that the test did not announce."""
        self._outputs.append(unannounced)

    def add_cleanup(self, cleanup: Callable[[], None]) -> None:
        """Call this when the audit has looked, whatever it has found."""
        self._cleanups.append(cleanup)

    def clean_up(self) -> None:
        """Remove what was only kept to be looked at."""
        for cleanup in self._cleanups:
            cleanup()

    def findings(self) -> list[Finding]:
        """Everything that is left; processes that are left are killed, so that the next test starts clean."""
        found = self._processes()
        found += self._open_descriptors()
        found += self._sockets()
        found += [f"unannounced: {line}" for ask in self._outputs for line in ask()]
        return found

    def _processes(self) -> list[Finding]:
        end = time.monotonic() + GRACE
        found: list[Finding] = []
        # A process that is reaped hands its own children to us: look again until there is nobody new.
        while new := children() - self._children:
            for pid in sorted(new):
                if pid in _own:
                    found += self._own_child(pid, end)
                elif not _gone_by(pid, end):
                    found.append(f"orphan {pid} still runs: {_stat(pid)[1]}")
                _remove(pid)
        return found

    @staticmethod
    def _own_child(pid: int, end: float) -> list[Finding]:
        state, command = _stat(pid)
        if state != "Z" and not _gone_by(pid, end):
            return [f"child {pid} still runs: {command}"]
        return [f"child {pid} was not waited for, it is a zombie"]

    def _open_descriptors(self) -> list[Finding]:
        if not self._new_descriptors():
            return []
        gc.collect()  # what is only garbage is no leak (and warns by itself)
        return [f"descriptor {number} is open: {target}" for number, target in self._new_descriptors().items()]

    def _new_descriptors(self) -> dict[int, str]:
        return {number: target for number, target in descriptors().items() if self._descriptors.get(number) != target}

    def _sockets(self) -> list[Finding]:
        found = {path for directory in self.directories for path in socket_files(directory)} - self._allowed
        for directory in _usual_runtime_directories():
            found |= socket_files(directory) - self._usual
        return [f"socket file is left: {path}" for path in sorted(found)]


def _gone_by(pid: int, end: float) -> bool:
    """Wait until a process has ended, at most until `end` (monotonic); True if it has."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        return bool(poller.poll(max(0.0, end - time.monotonic()) * 1000))
    finally:
        os.close(pidfd)


def _remove(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass


@pytest.fixture(autouse=True)
def audit(request: pytest.FixtureRequest) -> Iterator[Audit]:
    """Look before the test and after it."""
    audit = Audit()
    yield audit
    if "tmp_path" in getattr(request.node, "funcargs", {}):
        audit.watch(request.node.funcargs["tmp_path"])
    findings = audit.findings()
    audit.clean_up()
    if findings:
        pytest.fail("left behind:\n  " + "\n  ".join(findings), pytrace=False)
