"""The load client: requests that are due at times of their own, whatever becomes of the earlier ones. A program.

    python -m trapeze_bench.openloop PLAN RESULT

PLAN is a file: {"port": 8000, "rate": 1000, "kept": 32} (JSON, see `Plan`).

Each request is timed from the moment it was due: a server that stands still delays all that come meanwhile, not just
one. Nothing is tried again. It prints `go` when it begins, goes on until its stdin ends, waits for what is under way
and writes RESULT (JSON, see `Result`). The clock is the monotonic one, which all processes of a machine share.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import json
import random
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from itertools import cycle
from typing import NamedTuple, Self, cast

from trapeze_bench.answers import Malformed, Plain
from trapeze_bench.requestlist import ROOT, Asked

__all__ = ["Client", "Plan", "Result"]

TIMEOUT = 10.0
"""Seconds from when it was due until a request is lost."""
OWN = (errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM)
"""Errors of connect and socket that are the client's and not the server's."""
TICK = 0.001
"""Seconds: uvloop's timers know no less, and would spin for less. A request is sent up to so much late."""


class Plan(NamedTuple):
    """What to send."""

    port: int
    rate: float
    """Requests per second."""
    kept: int = 0
    """Connections that are kept and used in turn; 0: a new one for each request."""
    seed: int = 1
    asked: Sequence[tuple[str, str, str]] = ()
    """What to ask for in turn: method, path, body (Latin-1). Any answer below 400 is good then. Empty: GET /, and
    only a 200 is."""

    def raw(self) -> list[bytes]:
        """The requests, as they are sent."""
        asked = [Asked(method, path, body.encode("latin-1")) for method, path, body in self.asked] or [ROOT]
        return [each.raw(keep=self.kept > 0) for each in asked]

    def is_good(self, status: int) -> bool:
        """Is it an answer, or a request that was lost?"""
        return status < 400 if self.asked else status == 200


class Result(NamedTuple):
    """What became of it; in the order in which the requests ended."""

    due: list[float]
    """Monotonic seconds."""
    took: list[float]
    """Seconds from then until the answer was complete."""
    lost: list[tuple[float, str]]
    """When it was due, and in a word or two what happened to it. Not among those above."""
    reused: int
    """Requests that went over a connection that had already served one."""
    late: float
    """Seconds from due to sent, 99.9 of 100: of the client's own making, unless all kept connections were in use."""
    cpu: float
    """Part of one processor that the client used."""
    exhausted: str = ""
    """What the client ran out of, if anything: then this is no measurement."""
    behind: float = 0.0
    """Seconds, 99 of 100, until the client even looked what was due: whatever the server did, it had no time itself."""

    @classmethod
    def read(cls, path: str) -> Self:
        """Read the file."""
        with open(path) as file:
            found = cls(*json.load(file))
        return found._replace(lost=[(due, why) for due, why in found.lost])


class Wire(asyncio.Protocol):
    """A connection."""

    def __init__(self, client: Client, due: float) -> None:
        self.client = client
        self.transport: asyncio.Transport | None = None
        self.due = due
        """Of the request that is under way; 0 if none is."""
        self.served = 0
        self.begun = False
        """Something of the answer is there."""
        self.answer = Plain()
        self.ended = select.poll()
        """Says whether the server has closed it, though the loop may not have looked yet."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self.transport = cast(asyncio.Transport, transport)  # uvloop's own are of no class of asyncio's
        self.ended.register(transport.get_extra_info("socket").fileno(), select.POLLRDHUP)
        self.client.wires.add(self)
        self.ask(self.due)

    def usable(self) -> bool:
        """Is it still open? What the server closed while no request was under way, none may be sent on."""
        return not self.ended.poll(0)

    def ask(self, due: float) -> None:
        """Send a request."""
        assert self.transport is not None
        self.due, self.begun, self.answer = due, False, Plain()
        self.client.note_sent(due)
        self.client.reused += self.served > 0
        self.transport.write(next(self.client.requests))

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        if not self.due:
            self.client.lose(time.monotonic(), "bytes that nobody asked for")
            self.close()
            return
        self.begun = True
        try:
            complete = self.answer.feed(data)
        except Malformed as error:
            due, self.due = self.due, 0.0
            self.client.lose(due, str(error))
            self.close()
            return
        if complete:
            self._answered(self.answer)

    def _answered(self, answer: Plain) -> None:
        due, self.due = self.due, 0.0
        if not self.client.plan.is_good(answer.status):
            self.client.lose(due, f"status {answer.status}")
        elif answer.extra:
            self.client.lose(due, "bytes behind the answer")
        else:
            self.client.answered(due)
        self.served += 1
        if self.client.plan.kept and not (answer.closes or answer.extra):
            self.client.idle(self)
        else:
            self.close()

    def eof_received(self) -> None:
        """Called by the loop, which then closes it."""
        if not self.due:
            self.client.gone(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop."""
        due, self.due = self.due, 0.0
        if due and self.answer.open_ended and exc is None:  # an answer that ends with the connection
            if self.client.plan.is_good(self.answer.status):
                self.client.answered(due)
            else:
                self.client.lose(due, f"status {self.answer.status}")
        elif due:
            where = "in the answer" if self.begun else "unanswered"
            self.client.lose(due, f"{'closed' if exc is None else type(exc).__name__}, {where}")
        self.client.gone(self)

    def close(self) -> None:
        """Close it, in order."""
        if self.transport is not None:
            self.transport.close()


class Client:
    """All requests of a plan."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.random = random.Random(plan.seed)
        self.requests = cycle(plan.raw())
        self.stopping = False
        self.due: list[float] = []
        self.took: list[float] = []
        self.late: list[float] = []
        self.behind: list[float] = []
        self.lost: list[tuple[float, str]] = []
        self.reused = 0
        self.wires: set[Wire] = set()
        self.free: deque[Wire] = deque()
        self.waiting: deque[float] = deque()
        """When those were due that wait for a kept connection: there are never more than so many, as with a proxy."""
        self.exhausted = ""
        """What the client itself ran out of: nothing after that says anything about the server."""
        self.opening: set[asyncio.Task[None]] = set()
        self._looked = 0.0

    async def run(self) -> None:
        """Send what is due until told to stop; return when nothing is under way any more."""
        due = time.monotonic() + TICK
        while not self.stopping:
            now = time.monotonic()
            while due <= now:
                self.behind.append(now - due)
                self._send(due)
                due += self.random.uniform(0.5, 1.5) / self.plan.rate
            self._time_out(now)
            await asyncio.sleep(max(due - now, TICK))
        while self.waiting or self.opening or any(wire.due for wire in self.wires):
            self._time_out(time.monotonic())
            await asyncio.sleep(0.01)
        for wire in list(self.wires):
            wire.close()
        await asyncio.sleep(0.01)  # the loop closes them in its next turn

    def _send(self, due: float) -> None:
        self.waiting.append(due)
        self._next()

    def _next(self) -> None:
        """Send those that wait, in the order in which they were due, as far as there are connections for them."""
        while self.waiting:
            # All kept ones are opened first, then the one that was idle longest is next.
            if self._has_room():
                self._open(self.waiting.popleft())
            elif not self.free:
                return
            elif (wire := self.free.popleft()).usable():
                wire.ask(self.waiting.popleft())
            else:
                self.wires.discard(wire)
                wire.close()

    def _has_room(self) -> bool:
        return not self.plan.kept or len(self.wires) + len(self.opening) < self.plan.kept

    def _open(self, due: float) -> None:
        task = asyncio.get_running_loop().create_task(self._connect(due))
        self.opening.add(task)
        task.add_done_callback(self._opened)

    def _opened(self, task: asyncio.Task[None]) -> None:
        self.opening.discard(task)
        self._next()  # if nobody listens, there is room for the next one

    async def _connect(self, due: float) -> None:
        try:
            async with asyncio.timeout(TIMEOUT):
                loop = asyncio.get_running_loop()
                await loop.create_connection(lambda: Wire(self, due), "127.0.0.1", self.plan.port)
        except OSError as error:  # a TimeoutError is one
            if error.errno in OWN:
                self.exhausted = self.exhausted or str(error)
            name = errno.errorcode.get(error.errno or 0, "timed out")
            self.lose(due, f"{name}, connecting")

    def _time_out(self, now: float) -> None:
        while self.waiting and now - self.waiting[0] > TIMEOUT:
            self.lose(self.waiting.popleft(), "timed out, no connection was free")
        if self.wires and now - self._looked > 1.0:
            self._looked = now
            for wire in [each for each in self.wires if each.due and now - each.due > TIMEOUT]:
                self.lose(wire.due, "timed out")
                wire.due = 0.0
                wire.close()

    def note_sent(self, due: float) -> None:
        """A request is being sent."""
        self.late.append(time.monotonic() - due)

    def answered(self, due: float) -> None:
        """An answer is complete."""
        self.due.append(due)
        self.took.append(time.monotonic() - due)

    def lose(self, due: float, why: str) -> None:
        """There was none."""
        self.lost.append((due, why))

    def idle(self, wire: Wire) -> None:
        """A connection can be used again."""
        self.free.append(wire)
        self._next()

    def gone(self, wire: Wire) -> None:
        """A connection is closed; by the server, in order, when it was idle: its good right."""
        self.wires.discard(wire)
        if wire in self.free:
            self.free.remove(wire)
        self._next()


async def main(plan: Plan) -> Result:
    """Send until stdin ends."""
    client = Client(plan)
    loop = asyncio.get_running_loop()

    def listen() -> None:
        sys.stdin.buffer.read()
        loop.call_soon_threadsafe(setattr, client, "stopping", True)

    threading.Thread(target=listen, daemon=True).start()
    gc.collect()
    gc.freeze()  # what is collected now and then is what requests leave, which is little
    print("go", flush=True)
    began, used = time.monotonic(), time.process_time()
    await client.run()
    cpu = (time.process_time() - used) / (time.monotonic() - began)
    late, behind = _part(client.late, 0.999), _part(client.behind, 0.99)
    return Result(client.due, client.took, client.lost, client.reused, late, cpu, client.exhausted, behind)


def _part(values: list[float], part: float) -> float:
    return sorted(values)[int(len(values) * part)] if values else 0.0


def run() -> None:
    """The program."""
    with open(sys.argv[1]) as file:
        plan = Plan(**json.load(file))
    try:
        import uvloop

        factory = uvloop.new_event_loop
    except ModuleNotFoundError:
        factory = asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        result = runner.run(main(plan))
    with open(sys.argv[2], "w") as file:
        json.dump(result, file)


if __name__ == "__main__":
    run()
