"""Dev reload: a change of a source file asks for the same `reload` as everybody else."""

from __future__ import annotations

import asyncio
import os
import sys
import traceback
from collections.abc import Awaitable, Callable

from trapeze.errors import TrapezeError
from trapeze.generation import Generation
from trapeze.machine import Machine
from trapeze.prelude import ChildHandle

__all__ = ["Watch"]


def _words(directory: str) -> list[str]:
    """The command line of the watcher. -I: nothing in the app's directory may pass for a module of ours or Python's."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    code = "import sys; sys.path.append(sys.argv[1]); from trapeze.watcher import main; main(sys.argv[2:])"
    return [sys.executable, "-I", "-c", code, root, directory]


class Watch:
    """Watches the directory of one service, with a child process; reloads the service when something changes."""

    def __init__(
        self,
        machine: Machine,
        service: str,
        generation: Generation,
        reload: Callable[[list[str], str], Awaitable[object]],
    ) -> None:
        """Start watching the directory of the app; `reload` is the supervisor's verb.

        Raises:
            OSError: the watcher cannot be started.
        """
        directory = generation.spec.app_dir or generation.spec.cwd or generation.directory
        self._machine = machine
        self._service = service
        self._reload_verb = reload
        self._reloading: asyncio.Task[None] | None = None
        self._again = False
        self._closed = False
        self._child: ChildHandle = machine.spawn(generation.launch_tool(service, "watch", _words(directory)), self)
        machine.chronicle.note(f"{service}: watching {directory} for changes", service=service)

    def on_line(self, stream: str, text: str, more: bool) -> None:
        """The watcher said what changed, or why it cannot watch."""
        if stream == "stderr":
            self._machine.chronicle.note(f"{self._service} watch: {text}", service=self._service, level="warning")
            return
        self._machine.chronicle.note(f"{self._service}: {text} changed", service=self._service)
        if self._reloading is not None:
            self._again = True
        else:
            self._reloading = asyncio.get_running_loop().create_task(self._reload())

    def on_message(self, datagram: bytes) -> None:
        """It has nothing to notify."""

    def on_exit(self, status: int) -> None:
        """Without it nothing reloads any more: that must not go unnoticed."""
        if not self._closed:
            text = f"{self._service}: the file watch ended (status {status}); changes are not seen any more"
            self._machine.chronicle.note(text, service=self._service, level="warning")
        self._machine.schedule()

    async def _reload(self) -> None:
        try:
            while True:
                self._again = False
                try:
                    await self._reload_verb([self._service], "the file watch")
                except TrapezeError as error:
                    text = f"reload refused: {error.render()}"
                    self._machine.chronicle.note(text, service=self._service, level="error")
                except Exception:
                    output = traceback.format_exc().rstrip().split("\n")
                    self._machine.chronicle.note("internal error in a reload", level="error", output=output)
                if not self._again:
                    return
        finally:
            self._reloading = None

    def close(self) -> None:
        """Watch no longer."""
        self._closed = True
        self._child.kill()
