"""Run the real `trapeze` command, ask it, stop it.

Listening sockets are made here, by the test, on a port that the kernel chooses, and handed over as `fd://N`: no port
is looked for, and a client may connect before anything runs (it waits in the backlog).
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import httpx

from tests.support.wait import until

__all__ = [
    "ERROR_LINE",
    "ROOT",
    "Listener",
    "Result",
    "Trapeze",
    "clean_environment",
    "listen_tcp",
    "listen_unix",
    "run",
]

ROOT = Path(__file__).resolve().parents[2]
"""The repository: `examples.hello:wsgi` is found from here."""

ERROR_LINE = re.compile(r"\b(ERROR|CRITICAL)\b|Traceback \(most recent call last\)|^error: ")
"""What must be announced by `expect_error` when the supervisor says it."""

SETTLED = {"RUNNING", "DONE", "STOPPED"}


class Listener:
    """A listening socket made by the test, and a client for what answers on it."""

    def __init__(self, sock: socket.socket, address: str, path: Path | None = None) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.bind = f"fd://{self.fd}"
        """What `--bind` and the file are told."""
        self.address = address
        """As people write it: `127.0.0.1:40123`, `unix:/tmp/x/web.sock`."""
        self.path = path
        self.url = "http://localhost" if path else f"http://{address}"

    def client(self, **options: Any) -> httpx.Client:
        """An HTTP client that speaks to this socket; to be closed by the caller."""
        options.setdefault("timeout", 20)
        transport = httpx.HTTPTransport(uds=str(self.path)) if self.path else httpx.HTTPTransport()
        return httpx.Client(transport=transport, base_url=self.url, trust_env=False, **options)

    def get(self, path: str = "/", **options: Any) -> httpx.Response:
        """One request on a connection of its own."""
        return self.request("GET", path, **options)

    def request(self, method: str, path: str = "/", **options: Any) -> httpx.Response:
        """One request on a connection of its own."""
        headers = {"connection": "close", **options.pop("headers", {})}
        with self.client() as client:
            return client.request(method, path, headers=headers, **options)

    def close(self, *, unlink: bool = False) -> None:
        """Close the test's own copy; workers and supervisor keep theirs."""
        self.sock.close()
        if unlink and self.path:
            self.path.unlink(missing_ok=True)


def listen_tcp(host: str = "127.0.0.1", *, backlog: int = 2048) -> Listener:
    """Listen on a free TCP port of the loopback."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.create_server((host, 0), family=family, backlog=backlog)
    port = sock.getsockname()[1]
    return Listener(sock, f"[{host}]:{port}" if ":" in host else f"{host}:{port}")


def listen_unix(path: Path, *, backlog: int = 2048) -> Listener:
    """Listen on a Unix socket."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(str(path))
    sock.listen(backlog)
    return Listener(sock, f"unix:{path}", path)


class Result(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output, read as JSON."""
        return json.loads(self.out)


class Trapeze:
    """One supervisor, run as people run it.

    With `listeners`, `serve` gets a `--bind fd://N` for each, and every `Listener` is closed here once the supervisor
    has its copy (`keep_listeners=True` keeps it open), so that a stopped server refuses connections.
    """

    def __init__(
        self,
        *args: str,
        directory: Path,
        listeners: Sequence[Listener] = (),
        keep_listeners: bool = False,
        cwd: Path | str = ROOT,
        env: Mapping[str, str] | None = None,
        stdin: int = subprocess.DEVNULL,
        name: str = "trapeze",
        prefix: Sequence[str] = (),
    ) -> None:
        self.directory = directory
        self.runtime_dir = directory / "run"
        self.listeners = list(listeners)
        self.env = clean_environment() | {"TRAPEZE_RUNTIME_DIR": str(self.runtime_dir)} | dict(env or {})
        self.args = list(args)
        if args[:1] == ("serve",):
            self.args += [word for listener in listeners for word in ("--bind", listener.bind)]
        self.door = self.runtime_dir / f"{name}.sock"
        self.announced: list[re.Pattern[str]] = []
        self._keep_listeners = keep_listeners
        self._cwd = str(cwd)
        self._stdin = stdin
        self._prefix = list(prefix)
        self._process: subprocess.Popen[bytes] | None = None

    # -- life

    def start(self) -> Self:
        """Start the command; returns at once."""
        self.directory.mkdir(exist_ok=True)
        self.runtime_dir.mkdir(mode=0o700, exist_ok=True)
        with open(self.directory / "stdout", "wb") as out, open(self.directory / "stderr", "wb") as err:
            self._process = subprocess.Popen(
                [*self._prefix, sys.executable, "-m", "trapeze", *self.args],
                cwd=self._cwd,
                env=self.env,
                stdin=self._stdin,
                stdout=out,
                stderr=err,
                pass_fds=[listener.fd for listener in self.listeners],
                start_new_session=True,  # a signal to its group is not one to pytest's
            )
        if not self._keep_listeners:
            for listener in self.listeners:
                listener.sock.close()
        return self

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The supervisor."""
        assert self._process is not None, "not started"
        return self._process

    @property
    def pid(self) -> int:
        """The supervisor's pid."""
        return self.process.pid

    def ready(self, timeout: float = 20) -> Self:
        """Wait until every service has what it wants (RUNNING, DONE or STOPPED)."""
        until(self._settled, timeout=timeout, what=f"{' '.join(self.args)} to be ready")
        return self

    def _settled(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"exited with {self.process.returncode} before it was ready:\n{self.output}")
        try:
            with socket.socket(socket.AF_UNIX) as sock:  # httpx forgets to close its own when nobody listens yet
                sock.connect(str(self.door))
            services = self.status()["services"]
        except (OSError, httpx.TransportError):
            return False
        return bool(services) and all(service["status"] in SETTLED for service in services)

    def signal(self, signum: int) -> None:
        """Send a signal to the supervisor."""
        self.process.send_signal(signum)

    def terminate(self) -> None:
        """Ask it to stop gracefully."""
        self.signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the supervisor (not its children) at once."""
        self.signal(signal.SIGKILL)

    def wait(self, timeout: float = 20) -> int:
        """Wait for its end; the exit code, negative for a signal."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout:g} s:\n{self.output}") from None

    def stop(self, timeout: float = 20) -> int:
        """TERM, then wait."""
        self.terminate()
        return self.wait(timeout)

    def close(self) -> list[str]:
        """Stop it if it still runs; what went wrong with that."""
        if self._process is None or self._process.poll() is not None:
            return []
        try:
            self.stop()
        except AssertionError as error:
            self.kill()
            self.process.wait()
            return [f"had to be killed: {error}"]
        return []

    # -- questions

    def request(self, method: str, path: str, timeout: float = 30, **options: Any) -> httpx.Response:
        """Ask the control door itself."""
        transport = httpx.HTTPTransport(uds=str(self.door))
        with httpx.Client(transport=transport, base_url="http://trapeze", timeout=timeout, trust_env=False) as client:
            return client.request(method, path, headers={"connection": "close"}, **options)

    def status(self) -> dict[str, Any]:
        """The snapshot, from the control door."""
        return dict(self.request("GET", "/status").json())

    def service(self, name: str = "web") -> dict[str, Any]:
        """One service of the snapshot."""
        return next(service for service in self.status()["services"] if service["name"] == name)

    def pids(self, name: str = "web") -> list[int]:
        """Pids of the live processes of a service, by index."""
        processes = sorted(self.service(name)["processes"], key=lambda process: (process["index"], process["id"]))
        return [process["pid"] for process in processes if process["pid"] and process["state"] != "EXITED"]

    def ctl(self, *args: str, timeout: float = 40) -> Result:
        """Run a client command (`status`, `reload`...) against this instance."""
        return run(*args, env=self.env, cwd=self._cwd, timeout=timeout)

    def get(self, path: str = "/", *, listener: int = 0, **options: Any) -> httpx.Response:
        """GET from the app, through one of the listeners."""
        return self.listeners[listener].get(path, **options)

    @property
    def url(self) -> str:
        """Where the app answers, through the first listener."""
        return self.listeners[0].url

    # -- output

    @property
    def stdout(self) -> str:
        """What it has written to stdout so far."""
        return (self.directory / "stdout").read_text(errors="backslashreplace")

    @property
    def stderr(self) -> str:
        """What it has written to stderr so far."""
        return (self.directory / "stderr").read_text(errors="backslashreplace")

    @property
    def output(self) -> str:
        """Both, one after the other."""
        return self.stdout + self.stderr

    def wait_output(self, pattern: str, timeout: float = 10) -> re.Match[str]:
        """Wait until the output has a match for this pattern (MULTILINE)."""
        compiled = re.compile(pattern, re.MULTILINE)
        until(lambda: compiled.search(self.output), timeout=timeout, what=f"{pattern!r} in the output")
        match = compiled.search(self.output)
        assert match
        return match

    def expect_error(self, pattern: str) -> None:
        """Announce ERROR lines that match: the test provokes them."""
        self.announced.append(re.compile(pattern))

    def unannounced_errors(self) -> list[str]:
        """ERROR lines and tracebacks that no `expect_error` covers."""
        return [
            line
            for line in self.output.splitlines()
            if ERROR_LINE.search(line) and not any(pattern.search(line) for pattern in self.announced)
        ]


def clean_environment() -> dict[str, str]:
    """The environment of the tests without what a supervisor or systemd above them may have put there."""
    unwanted = ("TRAPEZE_", "LISTEN_", "NOTIFY_SOCKET", "WATCHDOG_", "GUNICORN_CMD_ARGS", "WEB_CONCURRENCY")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
    # `python3` in a command is the one that runs the tests, as in an activated virtual environment.
    return kept | {"PATH": f"{Path(sys.executable).parent}:{kept.get('PATH', os.defpath)}"}


def run(
    *args: str, env: Mapping[str, str] | None = None, cwd: Path | str = ROOT, timeout: float = 40, stdin: str = ""
) -> Result:
    """Run `trapeze ARGS` to its end: for commands that do not stay (check, schema, the clients)."""
    done = subprocess.run(
        [sys.executable, "-m", "trapeze", *args],
        env=dict(clean_environment() if env is None else env),
        cwd=str(cwd),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    return Result(done.returncode, done.stdout, done.stderr)
