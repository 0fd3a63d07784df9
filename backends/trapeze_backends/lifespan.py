"""The lifespan of an ASGI app, run around servers that have none of their own, or one that keeps its reasons."""

from __future__ import annotations

import asyncio
import sys
import traceback
from typing import Any

from trapeze_backends.contract import StartError
from trapeze_backends.loading import failure

__all__ = ["Lifespan"]


class Lifespan:
    """One app's start-up and shutdown.

    Attributes:
        state: what the app has left for its requests; each gets a copy of it as `scope["state"]`.
    """

    def __init__(self, app: Any) -> None:
        self.state: dict[str, Any] = {}
        self._app = app
        self._messages: asyncio.Queue[dict[str, str]] = asyncio.Queue()
        self._started = asyncio.Event()
        self._stopped = asyncio.Event()
        self._failed: str | None = None
        self._error: BaseException | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Return when the app has started, or turns out to know no lifespan.

        Raises:
            StartError: it says that it has failed.
        """
        self._task = asyncio.ensure_future(self._run())
        self._messages.put_nowait({"type": "lifespan.startup"})
        await self._started.wait()
        if self._failed is not None:
            await asyncio.wait({self._task}, timeout=1.0)  # Starlette says so first, and then raises
            self._task.cancel()
            raise self._reason()

    async def stop(self, timeout: float) -> None:
        """Have the app shut down; what it raises is shown."""
        if self._task is None or self._task.done():
            return
        self._messages.put_nowait({"type": "lifespan.shutdown"})
        try:
            await asyncio.wait_for(self._stopped.wait(), max(timeout, 0.1))
        except (asyncio.TimeoutError, TimeoutError):
            print(f"the app's lifespan shutdown did not end in {timeout:g} s", file=sys.stderr, flush=True)

    async def _run(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
        try:
            await self._app(scope, self._messages.get, self._send)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self._error = error
            if self._started.is_set() and self._failed is None:
                traceback.print_exception(type(error), error, error.__traceback__)
            # Before that it is the way of an app to say that it knows no lifespan.
        finally:
            self._started.set()
            self._stopped.set()

    async def _send(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        if kind == "lifespan.startup.complete":
            self._started.set()
        elif kind == "lifespan.startup.failed":
            self._failed = str(message.get("message", ""))
            self._started.set()
        elif kind == "lifespan.shutdown.complete":
            self._stopped.set()
        elif kind == "lifespan.shutdown.failed":
            print(f"the app's lifespan shutdown failed: {message.get('message', '')}", file=sys.stderr, flush=True)
            self._stopped.set()
        else:
            raise RuntimeError(f"{kind!r} is no message of a lifespan")

    def _reason(self) -> StartError:
        text = (self._failed or "").strip()
        if not text and self._error is not None:
            return failure("the app's lifespan start-up failed", self._error)
        last = text.splitlines()[-1] if text else "it gave no reason"
        return StartError(f"the app's lifespan start-up failed: {last}", traceback=text + "\n" if "\n" in text else "")
