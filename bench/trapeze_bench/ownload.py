"""A closed loop of our own, where wrk is not installed: each connection asks again once it is answered. A program.

    python -m trapeze_bench.ownload PLAN.json RESULT.json

One process; `generator` runs as many as there are processors to spare. It prints `go` when all is imported, begins when
its stdin says so (all processes at once), and writes RESULT: what was answered within the seconds that PLAN gives.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import sys
import time
from typing import NamedTuple, Self, cast

from trapeze_bench.answers import Malformed, Reader, reader

__all__ = ["Plan", "Result", "drive"]

TIMEOUT = 10.0
"""Seconds until a request counts as lost; wrk is told the same."""
PAUSE = 0.01
"""Seconds between two attempts to connect where one has failed: there is nobody, and asking faster helps nobody."""


class Plan(NamedTuple):
    """What to do."""

    port: int
    connections: int
    seconds: float
    requests: list[str]
    """As they are sent, in turn (Latin-1)."""
    first: int = 0
    """Which of them is asked first: processes and connections begin at different ones."""


class Result(NamedTuple):
    """What became of it."""

    seconds: float
    """That it took."""
    took: list[float]
    """Seconds of each answer that was complete, whatever its status."""
    errors: dict[str, int]
    """By kind: "connect", "read", "write", "timeout", and "status" (400 and above)."""

    @classmethod
    def of(cls, found: object) -> Self:
        """From what JSON makes of it."""
        return cls(*cast(list[object], found))  # type: ignore[arg-type]


class Connection(asyncio.Protocol):
    """One of them, opened again whenever it is closed."""

    def __init__(self, loop: Loop, number: int) -> None:
        self.loop = loop
        self.number = number
        self.transport: asyncio.Transport | None = None
        self.asked = 0.0
        """When; 0 if nothing is under way."""
        self.answer: Reader = loop.reader()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        self.transport = cast(asyncio.Transport, transport)  # uvloop's own are of no class of asyncio's
        self.ask()

    def ask(self) -> None:
        """Send the next request."""
        assert self.transport is not None
        requests = self.loop.requests
        self.number += 1
        self.answer = self.loop.reader()
        self.asked = time.perf_counter()
        self.transport.write(requests[self.number % len(requests)])

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        try:
            complete = self.answer.feed(data)
        except Malformed:
            self.fail("read")
            return
        if self.answer.extra:
            self.fail("read")
        elif complete:
            self.note()
            if self.answer.closes:
                self.close()
            else:
                self.ask()

    def note(self) -> None:
        """It was answered."""
        self.loop.took.append(time.perf_counter() - self.asked)
        if self.answer.status >= 400:
            self.loop.count("status")
        self.asked = 0.0

    def fail(self, kind: str) -> None:
        """It was not."""
        self.asked = 0.0
        self.loop.count(kind)
        self.close()

    def close(self) -> None:
        """In order."""
        if self.transport is not None:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop."""
        if self.asked and self.answer.open_ended and exc is None:
            self.note()
        elif self.asked:
            self.asked = 0.0
            self.loop.count("write" if isinstance(exc, BrokenPipeError) else "read")
        self.loop.reopen(self)


class Loop:
    """All connections of a process."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.requests = [each.encode("latin-1") for each in plan.requests]
        self.reader = reader()
        self.took: list[float] = []
        self.errors: dict[str, int] = {}
        self.connections = {Connection(self, plan.first + number) for number in range(plan.connections)}
        self.opening: set[asyncio.Task[None]] = set()
        self.over = False

    def count(self, kind: str) -> None:
        """An error."""
        if not self.over:
            self.errors[kind] = self.errors.get(kind, 0) + 1

    def reopen(self, connection: Connection) -> None:
        """It was closed, by whomever."""
        if not self.over:
            task = asyncio.get_running_loop().create_task(self._open(connection))
            self.opening.add(task)
            task.add_done_callback(self.opening.discard)

    async def _open(self, connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        while not self.over:
            try:
                async with asyncio.timeout(TIMEOUT):
                    await loop.create_connection(lambda: connection, "127.0.0.1", self.plan.port)
                return
            except OSError:  # a TimeoutError is one
                self.count("connect")
                await asyncio.sleep(PAUSE)

    async def run(self) -> Result:
        """Drive it for as long as the plan says."""
        began = time.perf_counter()
        for connection in self.connections:
            self.reopen(connection)
        end = began + self.plan.seconds
        while (now := time.perf_counter()) < end:
            await asyncio.sleep(min(end - now, 1.0))
            self._time_out(time.perf_counter())
        seconds = time.perf_counter() - began
        self.over = True
        took = list(self.took)
        for task in list(self.opening):
            task.cancel()
        for connection in self.connections:
            connection.asked = 0.0
            connection.close()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*self.opening, return_exceptions=True)
        await asyncio.sleep(0)  # the event loop closes them in its next turn
        return Result(seconds, took, self.errors)

    def _time_out(self, now: float) -> None:
        for connection in self.connections:
            if connection.asked and now - connection.asked > TIMEOUT:
                connection.fail("timeout")


async def drive(plan: Plan) -> Result:
    """Do what the plan says."""
    return await Loop(plan).run()


def run() -> None:
    """The program."""
    with open(sys.argv[1]) as file:
        plan = Plan(*json.load(file))
    try:
        import uvloop

        factory = uvloop.new_event_loop
    except ModuleNotFoundError:
        factory = asyncio.new_event_loop
    gc.collect()
    gc.freeze()
    print("go", flush=True)
    sys.stdin.readline()
    with asyncio.Runner(loop_factory=factory) as runner:
        result = runner.run(drive(plan))
    with open(sys.argv[2], "w") as file:
        json.dump(result, file)


if __name__ == "__main__":
    run()
