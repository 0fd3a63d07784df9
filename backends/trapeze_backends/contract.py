"""The contract between supervisor, child and backend: plain data, and the base class of backends.

Written without dataclasses and typing on purpose: the two cost 20 ms in an interpreter that has not imported them.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping
    from typing import Any

    from trapeze_backends.worker import Worker

__all__ = ["JOB_VERSION", "Backend", "Job", "Listener", "Problem", "StartError"]

JOB_VERSION = 1


class StartError(Exception):
    """This worker cannot start, and why: one line, a hint, and a traceback where the app's own code is to blame."""

    def __init__(self, message: str, *, hint: str = "", traceback: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.traceback = traceback


class Problem:
    """Something in the configuration that this backend, in this interpreter, cannot do.

    Args:
        field: name of the field of the service: `backend`, `threads`, `options.worker_class`.
        reason: what is wrong, in one line.
        hint: what to do about it.
    """

    __slots__ = ("field", "hint", "reason")

    def __init__(self, field: str, reason: str, hint: str = "") -> None:
        self.field = field
        self.reason = reason
        self.hint = hint

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Problem) and self.as_dict() == other.as_dict()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Problem({self.field!r}, {self.reason!r}, {self.hint!r})"

    def as_dict(self) -> dict[str, str]:
        """As JSON wants it."""
        return {"field": self.field, "reason": self.reason, "hint": self.hint}


class Listener:
    """One inherited listening socket.

    Args:
        name: its name in the configuration; several addresses may share one.
        fd: its descriptor in this process.
        address: as text, for messages.
        backlog: to be handed to whatever calls listen() again, since the last caller wins.
    """

    __slots__ = ("address", "backlog", "fd", "name")

    def __init__(self, name: str, fd: int, address: str, backlog: int = 2048) -> None:
        self.name = name
        self.fd = fd
        self.address = address
        self.backlog = backlog


class Job:
    """What one worker is asked to do; read from the JSON that the supervisor wrote.

    Raises:
        StartError: the JSON is of another version.
    """

    def __init__(self, raw: Mapping[str, Any]) -> None:
        if raw.get("version") != JOB_VERSION:
            raise StartError(f"the job is of version {raw.get('version')}, this worker understands {JOB_VERSION}")
        get = raw.get
        self.raw = raw
        self.mode: str = get("mode", "serve")
        self.service: str = get("service", "web")
        self.index: int = get("index") or 0
        self.generation: int = get("generation") or 1
        self.label: str = get("label") or f"{self.service}[{self.index}]"
        # the process
        self.parent: int = get("parent") or 0
        self.stop_signal: int = get("stop_signal") or 15
        self.rlimits: dict[str, list[int]] = get("rlimits") or {}
        self.nice: int | None = get("nice")
        self.notify_fd: int | None = get("notify_fd")
        self.listeners: list[Listener] = [
            Listener(entry.get("name", ""), entry["fd"], entry.get("address", ""), entry.get("backlog") or 2048)
            for entry in get("sockets") or []
        ]
        self.own_sockets: bool = bool(get("own_sockets"))
        """No other worker accepts on them."""
        # the app
        self.app: str = get("app") or ""
        self.factory: bool = bool(get("factory"))
        self.interface: str = get("interface") or "auto"
        self.app_dir: str = get("app_dir") or ""
        self.reload: bool = bool(get("reload"))
        self.import_app: bool = bool(get("import_app"))
        # the server
        self.backend: str = get("backend") or "auto"
        self.options: dict[str, Any] = dict(get("options") or {})
        self.workers: int = get("workers") or 1
        self.threads: int | None = get("threads")
        self.keepalive: float | None = get("keepalive")
        self.access_log: bool = bool(get("access_log"))
        self.root_path: str = get("root_path") or ""
        self.trusted_proxies: list[str] | None = get("trusted_proxies")
        self.stop_timeout: float = float(30.0 if get("stop_timeout") is None else raw["stop_timeout"])
        self.drain_grace: float = float(1.0 if get("drain_grace") is None else raw["drain_grace"])
        # the worker's life
        self.health: dict[str, Any] | None = get("health")
        self.preload: bool | str = get("preload", False)
        self.warm: str = get("warm") or ""
        self.after_fork: str = get("after_fork") or ""
        self.max_requests: int = get("max_requests") or 0
        self.max_rss: int = get("max_rss") or 0
        self.heartbeat_timeout: float = float(get("heartbeat_timeout") or 0.0)
        self.request_timeout: float = float(get("request_timeout") or 0.0)
        self.board: dict[str, Any] | None = get("board")
        self.dump_signal: int = get("dump_signal") or 0
        self.fork_fd: int | None = get("fork_fd")
        self.env: dict[str, str] = get("env") or {}
        # a command
        self.command: list[str] = list(get("command") or [])

    @property
    def backlog(self) -> int:
        """The longest backlog of its sockets."""
        return max((listener.backlog for listener in self.listeners), default=2048)

    @property
    def patience(self) -> float:
        """Seconds a draining worker waits for its requests: a little less than the supervisor waits for it."""
        return self.stop_timeout * 0.9


class Backend:
    """A server that runs an app on inherited sockets. Inheriting from this is convenient, not required.

    One instance lives in each worker; `prepare`, then `run`, are called on the main thread.
    """

    name: str = ""
    title: str = ""
    """What messages call it, if that is not its name: "chaussette's gevent"."""
    note: str = ""
    """What its users have to know before they choose it, in one line."""
    interfaces: frozenset[str] = frozenset()
    """What it serves: "wsgi", "asgi" or both; an ASGI app always arrives as ASGI 3. Or the interface of one server,
    "aiohttp" or "tornado": then it does by itself what is otherwise done around the app."""
    speaks: frozenset[str] = frozenset()
    """Beyond HTTP/1.1: "websocket", "http2"."""
    fields: Mapping[str, str] = {}
    """How it meets the fields that mean the same everywhere: "native", "trapeze" (done around it), or "no: WHY", which
    makes the field an error. `threads` and `keepalive` are "no" unless they are named here, all others
    "trapeze". May be set by `check`, where it depends on the job."""
    lacks: Mapping[str, str] = {}
    """Promises of the contract that it cannot keep (names in `features.PROMISES`), each with the reason."""
    program: bool = False
    """It is a program of its own: `command` is called instead of `run`. May be set by `check`, as the two above."""

    def version(self) -> str:
        """Version of the server, or "" when it is not known or not installed."""
        return ""

    def check(self, job: Job) -> list[Problem]:
        """Return all that this backend cannot do of what `job` asks for; runs nothing, imports little.

        Fields that are "no" in `fields` are found without it.
        """
        return []

    def trusted(self, job: Job) -> list[str] | None:
        """Return whom the server's own settings trust as proxies, None if they do not say.

        Asked after `prepare`, and only if the service has no `trusted_proxies`.
        """
        return None

    def prepare(self, job: Job) -> None:
        """Called before the app is imported: the place for monkey patches."""

    def preload(self, job: Job, interface: str) -> None:
        """Called after the app is imported, in a process that `run` is then forked from: import what `run` will need.

        Open nothing, start no thread, make no event loop. What fails here fails again in `run`, and is reported there.
        """

    def run(self, app: Any, sockets: list[socket.socket], worker: Worker) -> None:
        """Serve until the worker is asked to stop, drain, and return.

        Args:
            app: WSGI callable, ASGI 3 application, or an app of the server's own; see `worker.interface`.
            sockets: listening and non-blocking, one per address. Never make one blocking: the flag belongs to the
                open file description, which all workers and the supervisor share.
            worker: call `worker.ready()` once, when connections are accepted.

        Raises:
            StartError: it cannot serve this app.
        """
        raise NotImplementedError

    def command(self, job: Job, sockets: list[socket.socket]) -> list[str]:
        """Return the command line of the program that this process is to become.

        It inherits the sockets under their present numbers, from 3 on, and `LISTEN_FDS`, `LISTEN_PID` and
        `LISTEN_FDNAMES` say so; `os.environ` is its environment, to be changed here as need be. In its Python
        `trapeze_app:app` can be imported: the app, after `inside`.

        Raises:
            StartError: there is no such program.
        """
        raise NotImplementedError

    def inside(self, app: Any, sockets: list[socket.socket], worker: Worker) -> Any:
        """Called in that program, when it imports the app; return what it is to call.

        The program accepts soon after: that is when `worker.ready()` should be called, or now if nobody will know.
        """
        worker.ready()
        return app
