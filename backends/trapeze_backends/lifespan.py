"""The lifespan of an ASGI app, for servers that leave it to us or lose its reasons."""

from __future__ import annotations

import asyncio

from trapeze_backends.contract import StartError
from trapeze_backends.loading import failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Lifespan"]


class Lifespan:
    """Start-up and shutdown of `app`. An app that raises before it has answered has no lifespan, and serves without.

    Attributes:
        state: what the app has left for the scopes of its requests; copy it into each.
    """

    def __init__(self, app: Any) -> None:
        self._app = app
        self.state: dict[str, Any] = {}
        self._said = asyncio.Event()
        self._answer: dict[str, Any] = {}
        self._messages: asyncio.Queue[dict[str, str]] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Run the start-up.

        Raises:
            StartError: it failed, and why.
        """
        self._task = asyncio.get_running_loop().create_task(self._run())
        await self._ask("lifespan.startup")
        if self._answer.get("type") == "lifespan.startup.failed":
            raise _failed(str(self._answer.get("message", "")).strip())

    async def stop(self) -> None:
        """Run the shutdown, if there is a lifespan."""
        if self._task is not None and not self._task.done():
            await self._ask("lifespan.shutdown")
            if self._answer.get("type") == "lifespan.shutdown.failed":
                print(str(self._answer.get("message", "")).strip() or "the app's lifespan shutdown failed", flush=True)

    async def _ask(self, what: str) -> None:
        self._said.clear()
        self._answer = {}
        self._messages.put_nowait({"type": what})
        await self._said.wait()

    async def _run(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
        try:
            await self._app(scope, self._messages.get, self._send)
        except Exception as error:
            if self._answer.get("type") == "lifespan.startup.complete" or self._started:
                print(failure("the app's lifespan failed", error).traceback, end="", flush=True)
        finally:
            self._said.set()

    _started = False

    async def _send(self, message: dict[str, Any]) -> None:
        if message["type"] == "lifespan.startup.complete":
            self._started = True
        self._answer = message
        self._said.set()


def _failed(reason: str) -> StartError:
    """The last line says it; frameworks put a whole traceback there."""
    last = reason.splitlines()[-1] if reason else "it gave no reason"
    return StartError(f"the app's lifespan start-up failed: {last}", traceback=reason + "\n" if "\n" in reason else "")
