"""gunicorn's asgi worker class: the reason of a failed start, and a drain that keeps what answers have promised.

At SIGTERM the class goes on for up to a second, and then closes connections whose last answer said that they are kept:
the client's next request is lost. Here it stops accepting at once, says `Connection: close` from then on, and closes
what is idle after `drain_grace`. gunicorn's protocol class decides by `worker.alive`, so that stays true meanwhile.
"""

from __future__ import annotations

import asyncio
from typing import Any

from trapeze_backends.contract import StartError
from trapeze_backends.gunicorn_settings import last_line
from trapeze_backends.worker import Worker

__all__ = ["adapt_asgi"]

TICK = 0.05
"""Seconds between two looks for idle connections, once the grace is over."""


def adapt_asgi(base: type[Any], worker: Worker) -> type[Any]:
    """Return a subclass of the (already adapted) class."""

    class Adapted(base):
        """See the module's docstring."""

        _main: asyncio.Task[Any] | None = None

        def run(self) -> None:
            from gunicorn.asgi import lifespan
            from gunicorn.workers import gasgi

            reasons: list[BaseException] = []
            self._open: set[Any] = set()
            manager, protocol = lifespan.LifespanManager, gasgi.ASGIProtocol
            lifespan.LifespanManager = _manager(manager, reasons)
            gasgi.ASGIProtocol = _protocol(protocol, self._open, worker)
            self._can_keep = hasattr(protocol, "_will_close")
            try:
                super().run()
            except SystemExit:
                raise _explained(reasons) from None
            finally:
                lifespan.LifespanManager, gasgi.ASGIProtocol = manager, protocol

        def notify(self) -> None:
            super().notify()
            self._main = asyncio.current_task(self.loop)

        def _graceful_in_loop(self) -> None:
            if worker.stopping:
                return
            if self._main is None or not self._can_keep:
                super()._graceful_in_loop()
                return
            worker.stop()
            self._main.cancel()  # it sleeps; being cancelled it goes on to its orderly end
            self.loop.call_later(worker.job.drain_grace, _close_idle, self.loop, self._open)

    return Adapted


def _explained(reasons: list[BaseException]) -> BaseException:
    """The reason of an exit, where it was the lifespan."""
    if not reasons:
        return SystemExit(1)
    reason = last_line(reasons[0]).removeprefix("Lifespan startup failed: ")
    return StartError(f"the app's lifespan start-up failed: {reason}")


def _close_idle(loop: asyncio.AbstractEventLoop, connections: set[Any]) -> None:
    """Close what waits for a request, now and until the loop ends."""
    for connection in list(connections):
        if getattr(connection, "_awaiting_request", False):
            connection._keepalive_timeout()
    loop.call_later(TICK, _close_idle, loop, connections)


def _manager(base: type[Any], reasons: list[BaseException]) -> type[Any]:
    class Manager(base):
        """Notes what its start-up raised: gunicorn logs it, and exits 3."""

        async def startup(self) -> None:
            try:
                await super().startup()
            except Exception as error:
                reasons.append(error)
                raise

    return Manager


def _protocol(base: type[Any], connections: set[Any], worker: Worker) -> type[Any]:
    class Protocol(base):
        """Known while it is open; announces the end of the connection while draining."""

        __slots__ = ()

        def connection_made(self, transport: Any) -> None:
            connections.add(self)
            super().connection_made(transport)

        def connection_lost(self, exc: BaseException | None) -> None:
            connections.discard(self)
            super().connection_lost(exc)

        def _will_close(self, *args: Any) -> bool:
            return worker.stopping or bool(super()._will_close(*args))

    return Protocol
