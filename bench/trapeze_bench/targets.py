"""What is measured: trapeze and the servers run natively, each started, asked, and stopped with nothing left."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from trapeze_bench import procfs, wire
from trapeze_bench.served import Served

__all__ = [
    "APPS",
    "BENCH",
    "WORKERS",
    "Failed",
    "Running",
    "Target",
    "environment",
    "environment_of_ours",
    "free_port",
    "gunicorn",
    "gunicorn_words",
    "program",
    "running",
    "started",
    "until",
]

BENCH = Path(__file__).resolve().parent.parent
"""Where the servers run: `trapeze_bench.hello` is importable there."""
APPS = BENCH / "trapeze_bench" / "apps"
"""Apps that only a script here serves."""
WORKERS = 4
THREADS = 4
"""Of gunicorn's gthread class and of granian (WSGI): what trapeze's backends take."""
POLL = 0.001
"""Seconds between two attempts to connect: costs a few per cent of a core, on either side of a comparison."""
PATIENCE = 30.0
"""Seconds until a start, an answer or a stop counts as failed."""


class Failed(Exception):
    """A server did not do what is to be measured."""


def program(name: str) -> list[str]:
    """The console script beside our Python if all are installed there, `python -m` for all otherwise."""
    script = Path(sys.executable).with_name(name)
    if Path(sys.executable).with_name("trapeze").exists() and script.exists():
        return [str(script)]
    return [sys.executable, "-m", name]


@dataclass(frozen=True)
class Target:
    """A server and how to start it."""

    name: str
    argv: Callable[[int], list[str]]
    """From a port to a command line."""


def gunicorn(port: int, *words: str, app: str = "trapeze_bench.hello:wsgi") -> list[str]:
    """The command line of gunicorn run natively, as trapeze's backend runs it."""
    return gunicorn_words(Served(app, "wsgi", WORKERS), port, "gthread", THREADS, *words)


def gunicorn_words(served: Served, port: int, kind: str, threads: int | None, *more: str) -> list[str]:
    """The command line of gunicorn run natively: a worker class, its threads if it has some, more options."""
    words = ["-w", str(served.workers), "-k", kind, "-b", f"127.0.0.1:{port}"]
    words += ["--threads", str(threads)] if threads else []
    app = served.app + ("()" if served.factory else "")
    return [*program("gunicorn"), *words, *_no_control_socket(), *more, app]


def _no_control_socket() -> list[str]:
    """gunicorn 25 and later open one in the home directory: off, which makes gunicorn faster to start, not slower."""
    from importlib.metadata import version

    return ["--no-control-socket"] if int(version("gunicorn").split(".")[0]) >= 25 else []


def environment(directory: str) -> dict[str, str]:
    """The same for every server: a runtime directory of its own, and the checkout where trapeze is not installed."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("TRAPEZE_")}
    env["TRAPEZE_RUNTIME_DIR"] = directory
    # Without it a checkout would be compiled anew at each start, and what pip has installed and compiled would not.
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    path = [os.path.abspath(entry) for entry in env.get("PYTHONPATH", "").split(os.pathsep) if entry]
    if importlib.util.find_spec("trapeze") is None:
        path += [str(BENCH.parent), str(BENCH.parent / "backends")]
    if path:
        env["PYTHONPATH"] = os.pathsep.join(path)
    return env


def environment_of_ours(directory: str) -> dict[str, str]:
    """The same for programs of this package: `python -m trapeze_bench.openloop` finds it."""
    env = environment(directory)
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(BENCH), env.get("PYTHONPATH")]))
    return env


@dataclass
class Running:
    """A server that was started."""

    name: str
    popen: subprocess.Popen[bytes]
    directory: str
    """Runtime directory, and its output."""
    began: float
    """Monotonic seconds, just before fork and exec."""
    port: int = 0
    left: list[int] = field(default_factory=list)
    """Processes that were still there after the stop."""
    stop_seconds: float = 0.0
    patience: float = PATIENCE
    """Seconds for a stop, until it is killed."""

    @property
    def pid(self) -> int:
        """Of the supervisor or master."""
        return self.popen.pid

    @property
    def control(self) -> str:
        """Path of the control socket (of trapeze)."""
        return os.path.join(self.directory, "trapeze.sock")

    def output(self) -> str:
        """What it printed, the end of it."""
        return Path(self.directory, "output").read_text(errors="replace")[-2000:]

    def first_answer(self) -> float:
        """Seconds from exec to the first complete 200."""
        while time.monotonic() < self.began + PATIENCE:
            self.check()
            try:
                answer = wire.get(("127.0.0.1", self.port))
            except (wire.Refused, TimeoutError):  # the latter: it has bound and is not done, on a machine without time
                time.sleep(POLL)
                continue
            except ConnectionError as error:
                raise Failed(f"{self.name}: {error}\n{self.output()}") from None
            if answer.status != 200:
                raise Failed(f"{self.name}: answered {answer.status}")
            return time.monotonic() - self.began
        raise Failed(f"{self.name}: no answer in {PATIENCE:g} s\n{self.output()}")

    def check(self) -> None:
        """Raise Failed if it has ended."""
        if self.popen.poll() is not None:
            raise Failed(f"{self.name}: ended with status {self.popen.returncode}\n{self.output()}")

    def all_up(self) -> None:
        """Wait until each of the workers has answered once."""
        pids: set[bytes] = set()

        def everyone() -> bool:
            pids.add(wire.get(("127.0.0.1", self.port)).body.split()[-1])
            return len(pids) >= WORKERS

        until(everyone, f"{self.name}: an answer of all {WORKERS} workers", patience=5.0, must=False)

    def stop(self) -> None:
        """SIGTERM, and look whether anything is left; what is, is killed (by pid, and only if it is the same one)."""
        known = procfs.descendants(self.pid)
        began = time.monotonic()
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGTERM)
        try:
            self.popen.wait(self.patience)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
        self.stop_seconds = time.monotonic() - began
        self.left = [pid for pid, started in known.items() if procfs.alive(pid, started)]
        for pid in self.left:
            with suppress(ProcessLookupError):  # it was on its way out
                os.kill(pid, signal.SIGKILL)


@contextmanager
def running(target: Target) -> Iterator[Running]:
    """Start a server of the hello app on a free port; stop it at the end."""
    port = free_port()
    with started(target.name, target.argv(port)) as server:
        server.port = port
        yield server


@contextmanager
def started(
    name: str,
    argv: Sequence[str],
    cwd: str | None = None,
    directory: str | None = None,
) -> Iterator[Running]:
    """Run a command as a server; stop it at the end.

    Args:
        name: for messages.
        argv: the command.
        cwd: where it runs; default: where `trapeze_bench` is.
        directory: its runtime directory, which stays; default: one of its own.
    """
    with ExitStack() as stack:
        directory = directory or stack.enter_context(tempfile.TemporaryDirectory(prefix="trapeze-figures-"))
        env = environment(directory)
        with open(os.path.join(directory, "output"), "wb") as output:
            began = time.monotonic()
            popen = subprocess.Popen(
                argv,
                cwd=cwd or BENCH,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                process_group=0,  # ^C of a terminal is for us to pass on
            )
        server = Running(name, popen, directory, began)
        try:
            yield server
        finally:
            server.stop()


def until(
    predicate: Callable[[], bool], what: str, *, patience: float = PATIENCE, must: bool = True, pause: float = POLL
) -> bool:
    """Poll with short pauses; after `patience` seconds raise Failed, or return False."""
    deadline = time.monotonic() + patience
    while not predicate():
        if time.monotonic() > deadline:
            if must:
                raise Failed(f"waited {patience:g} s in vain: {what}")
            return False
        time.sleep(pause)
    return True


def free_port() -> int:
    """One of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
