"""Readiness probes of processes: `probe.Probe` with `exec:` commands run as the service's own user."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Callable

from trapeze.launch import Launcher
from trapeze.probe import Probe
from trapeze.process import Process
from trapeze.readiness import After, Execute, parse_ready
from trapeze.service import Service

__all__ = ["start_probe"]


class _Answer:
    """Waits for the exit status of a probe command; what it prints is nobody's business."""

    def __init__(self, loop: asyncio.AbstractEventLoop, service: Service) -> None:
        self._service = service
        self.status: asyncio.Future[int] = loop.create_future()

    def on_line(self, stream: str, text: str, more: bool) -> None:
        pass

    def on_message(self, datagram: bytes) -> None:
        pass

    def on_exit(self, status: int) -> None:
        if not self.status.done():
            self.status.set_result(status)
        # It may be the last child that the end of everything waits for.
        self._service.host.touched(self._service)


def start_probe(
    launcher: Launcher, loop: asyncio.AbstractEventLoop, service: Service, process: Process, ready: str
) -> Callable[[], None]:
    """Ask until `process` is ready, then say so to `service`. Return how to stop asking."""
    generation = service.generations[process.generation]

    async def run_exec(command: str) -> int:
        answer = _Answer(loop, service)
        child = launcher.spawn(generation.launch_tool(service.name, "probe", shlex.split(command)), answer)
        try:
            return await answer.status
        finally:
            child.kill()

    def say(text: str) -> None:
        process.said = text

    def done() -> None:
        process.said = ""
        service.became_ready(process, _met(generation.spec.ready or ready))

    probe = Probe.start(ready, loop, on_ready=done, on_note=say, run_exec=run_exec)
    return probe.cancel


def _met(ready: str) -> str:
    """That a condition is met, in words."""
    match parse_ready(ready):
        case After(seconds=seconds):
            return f"{seconds:g} s have passed"
        case Execute(command=command):
            return f"{command} exited with status 0"
        case _:
            return f"{ready} answers"
