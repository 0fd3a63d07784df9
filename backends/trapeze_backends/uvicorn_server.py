"""The uvicorn Server of a worker. Imported by the backend only when it runs: it needs asyncio and uvicorn."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import signal
import socket
import sys
from collections.abc import Iterator
from typing import Any

from uvicorn.config import LOGGING_CONFIG, Config
from uvicorn.lifespan.on import LifespanOn
from uvicorn.server import Server

from trapeze_backends.contract import StartError
from trapeze_backends.gate import Gate
from trapeze_backends.unixnames import unix_names
from trapeze_backends.uvicorn_drain import drain, note_heads
from trapeze_backends.worker import Worker

__all__ = ["make_server"]

CLOSE = (b"connection", b"close")
OURS = ("proxy_headers", "forwarded_allow_ips")
"""Settings that we do ourselves, the same for every server (`proxied`)."""


def make_server(app: Any, sockets: list[socket.socket], worker: Worker) -> Server:
    """Return the server, with its configuration loaded."""
    job = worker.job
    settings: dict[str, Any] = {
        "interface": "asgi3",
        "backlog": job.backlog,
        "access_log": False,
        "proxy_headers": False,
        "log_config": _logging(),
        "log_level": "warning",
        "timeout_graceful_shutdown": max(int(job.patience), 1),
    }
    if job.keepalive is not None:
        settings["timeout_keep_alive"] = job.keepalive
    known = inspect.signature(Config).parameters
    settings = {name: value for name, value in settings.items() if name in known}
    options = {name: value for name, value in job.options.items() if name not in OURS}
    if options.get("access_log"):
        settings["log_level"] = "info"
    config = _Config(_NoFactory(app), **{**settings, **options})
    config.load()
    note_heads(config.http_protocol_class)
    _name_unix_sockets(config, unix_names(sockets, job.listeners))
    server = DrainingServer(config, worker)
    if not worker.share.is_alone:
        _count_connections(config, server)
    return server


def _count_connections(config: Config, server: DrainingServer) -> None:
    """Tell the gate of the server of each connection that comes and goes."""
    base: Any = config.http_protocol_class
    if not inspect.isclass(base):
        return

    class Counted(base):
        """One connection."""

        def __init__(self, *args: Any, **more: Any) -> None:
            if server.gate is not None:
                server.gate.accepted()
            super().__init__(*args, **more)

        def connection_lost(self, exc: BaseException | None) -> None:
            super().connection_lost(exc)
            if server.gate is not None:
                server.gate.left()

    Counted.__name__ = base.__name__
    config.http_protocol_class = Counted


def _name_unix_sockets(config: Config, names: dict[Any, str]) -> None:
    """`scope["server"]` of a Unix socket is its path. The kernel knows only the private one that it was bound with."""
    protocol: Any = config.http_protocol_class
    if not names or not inspect.isclass(protocol):
        return

    plain: Any = getattr(protocol, "connection_made")  # noqa: B009  (an attribute that mypy does not know of)

    def connection_made(self: Any, transport: Any) -> None:
        plain(self, transport)
        if self.server is not None and self.server[0] in names:
            self.server = (names[self.server[0]], None)

    config.http_protocol_class = type(protocol.__name__, (protocol,), {"connection_made": connection_made})


class _Config(Config):
    """Never calls the app to find out whether it is a factory: that has been settled before."""

    def load(self) -> None:
        super().load()
        if isinstance(self.loaded_app, _NoFactory):
            self.loaded_app = self.loaded_app.app
        around: Any = self.loaded_app  # uvicorn's own middleware, if any
        while (inner := getattr(around, "app", None)) is not None:
            if isinstance(inner, _NoFactory):
                around.app = inner.app
                break
            if not type(around).__module__.startswith("uvicorn."):
                break
            around = inner
        if self.lifespan_class is LifespanOn:
            self.lifespan_class = _Lifespan


class _NoFactory:
    """Raises TypeError when uvicorn tries it as a factory, and is replaced by the app then."""

    def __init__(self, app: Any) -> None:
        self.app = app

    def __call__(self, *args: Any) -> Any:
        if not args:
            raise TypeError("not a factory")
        return self.app(*args)


def _logging() -> dict[str, Any]:
    """uvicorn's own logging, without colours: its output is a pipe, and the supervisor's prefix has them."""
    import copy

    config = copy.deepcopy(LOGGING_CONFIG)
    for formatter in config["formatters"].values():
        formatter["use_colors"] = sys.stderr.isatty()
    return config


class _Lifespan(LifespanOn):
    """Keeps the reason of a failed start-up instead of logging it: it is told to the supervisor."""

    reason = ""

    async def startup(self) -> None:
        real, self.logger = self.logger, _Silent(self)  # type: ignore[assignment]
        try:
            await super().startup()
        finally:
            self.logger = real


class _Silent:
    """A logger that collects errors."""

    def __init__(self, lifespan: _Lifespan) -> None:
        self.lifespan = lifespan

    def info(self, message: str, *args: Any, **kwargs: Any) -> None:
        """Dropped."""

    def error(self, message: str, *args: Any, exc_info: BaseException | None = None, **kwargs: Any) -> None:
        """Kept, unless it is the last line, which says no more than that it failed."""
        if exc_info is not None:
            import traceback

            message = "".join(traceback.format_exception(type(exc_info), exc_info, exc_info.__traceback__))
        if not message.startswith("Application startup failed"):
            self.lifespan.reason = message.strip()


class DrainingServer(Server):
    """Says when it is ready, drains as `uvicorn_drain` tells, and exits 0 after SIGTERM."""

    def __init__(self, config: Config, worker: Worker) -> None:
        super().__init__(config)
        self.worker = worker
        self.gate: Gate | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn's own raises the signal again at the end, so that a clean stop looks like a death by SIGTERM."""
        loop = asyncio.get_running_loop()
        for number in self.worker.graceful_signals:
            loop.add_signal_handler(number, self._graceful)
        for number in self.worker.fast_signals:
            signal.signal(number, lambda signum, frame: self.worker.leave_now())
        yield

    def _graceful(self) -> None:
        self._say_close()
        self.worker.stop()
        self.should_exit = True

    def _say_close(self) -> None:
        """In place: the requests under way share the list. uvicorn closes a connection whose answer has this header."""
        headers = self.server_state.default_headers
        if CLOSE not in headers:
            headers.append(CLOSE)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Lifespan, health, listeners, ready."""
        start_lifespan = self.lifespan.startup

        async def start_and_ask() -> None:
            await start_lifespan()
            if not self.lifespan.should_exit:
                await self.worker.check_health(self.config.loaded_app, self.lifespan.state)

        self.lifespan.startup = start_and_ask
        try:
            await super().startup(sockets=sockets)
        except SystemExit:
            raise _lifespan_failed(self.lifespan) from None
        if self.started:
            if not self.worker.share.is_alone:
                self.gate = Gate(self.worker.share, sockets or [], asyncio.get_running_loop())
            self.worker.ready()

    async def on_tick(self, counter: int) -> bool:
        """Once each tenth of a second."""
        self.worker.beat(self.server_state.total_requests, len(self.server_state.tasks))
        if self.gate is not None:
            self.gate.count(len(self.server_state.connections))
        if counter % 50 == 0 and self.worker.is_orphan:
            self._graceful()
        return bool(await super().on_tick(counter))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting, serve what was accepted, close what is idle, and only then what uvicorn does."""
        state = self.server_state
        self._say_close()  # once more: the last tick has made a new list
        await self._stop_accepting(sockets or [])
        if not await drain(state, self.worker, lambda: self.force_exit):
            # What is left is cancelled. Not a whole second: of a short stop_timeout there may be less.
            self.config.timeout_graceful_shutdown = 0 if sys.version_info >= (3, 12) else 0.1  # type: ignore[assignment]
        await super().shutdown(sockets=[])

    async def _stop_accepting(self, sockets: list[socket.socket]) -> None:
        loop = asyncio.get_running_loop()
        gate, self.gate = self.gate, None
        if gate is not None:
            gate.close()
        for server in self.servers:
            if isinstance(server, asyncio.base_events.Server):
                for transport in server.sockets:
                    loop.remove_reader(transport.fileno())
        # asyncio: connections accepted in this very turn get their transport first, or it asserts.
        for _ in range(4):
            await asyncio.sleep(0)
        for server in self.servers:
            server.close()
        for sock in sockets:
            sock.close()


def _lifespan_failed(lifespan: Any) -> StartError:
    reason = str(getattr(lifespan, "reason", "")).strip()
    last = reason.splitlines()[-1] if reason else "it gave no reason"
    traceback = reason + "\n" if "\n" in reason else ""
    return StartError(f"the app's lifespan start-up failed: {last}", traceback=traceback)
