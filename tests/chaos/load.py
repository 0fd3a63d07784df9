"""The load client: open loop, in a process of its own, `python -m tests.chaos.load PLAN RECORDS`.

Every request is due at a time that does not depend on answers, and is timed from then. PLAN is a JSON file (`Plan`);
RECORDS gets one line of JSON a request. On stdin it takes one word of JSON a line and answers each on stdout with one:

    {"do": "pause"}                                no more requests are due; answered when all are over
    {"do": "burst", "flow": [...], "count": 20}    that many at once; answered when all of them are sent
    {"do": "quit"}                                 no more requests; answered when all are over, then it exits
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import sys
import time
from collections import deque
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from tests.chaos.exchange import Answer, Line, Lost, connect, exchange, rest
from tests.chaos.records import DOUBLED, OK, Flow, Record

__all__ = ["Client", "Plan"]

LINGER = 3.0
"""Seconds for a second answer to show up on a connection that is to be closed."""


class Plan(NamedTuple):
    """What to send."""

    seed: int
    timeout: float
    """Seconds from the moment a request is sent until it is lost."""
    flows: list[Flow]

    @classmethod
    def read(cls, path: Path) -> Plan:
        """Read the file."""
        seed, timeout, flows = json.loads(path.read_text())
        return cls(seed, timeout, [Flow.read(flow) for flow in flows])


class Pool:
    """The kept connections of a flow: used in turn, so that each is idle as long as the others."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.open = 0
        self.idle: deque[Line] = deque()

    def take(self) -> Line | None:
        """The one that was idle longest; None if there shall be a new one."""
        return self.idle.popleft() if self.idle and self.open >= self.size else None


class Client:
    """All flows of a plan."""

    def __init__(self, plan: Plan, out: TextIO) -> None:
        self.plan = plan
        self.out = out
        self.random = random.Random(plan.seed)
        self.numbers = itertools.count()
        self.running: set[asyncio.Task[None]] = set()
        self.pools = {flow: Pool(flow.keep) for flow in plan.flows}
        self.closed_idle = 0
        """Kept connections that a server closed in order while they were idle."""
        self.stopping = asyncio.Event()

    # -- when

    async def run(self, flow: Flow) -> None:
        """Send what is due, whatever has become of what was sent before."""
        loop = asyncio.get_running_loop()
        due = loop.time() + self.random.random() / flow.rate
        while not self.stopping.is_set():
            try:
                async with asyncio.timeout_at(due):
                    await self.stopping.wait()
            except TimeoutError:
                self._track(self.one(flow, due))
                due += self.random.uniform(0.5, 1.5) / flow.rate

    async def burst(self, flow: Flow, count: int) -> None:
        """Send so many at once; returns when all have been written (or are lost)."""
        lines = [await connect(flow.addresses, self.plan.timeout) for _ in range(count)]
        tasks = [self._track(self._only(line, flow)) for line in lines]
        while any(line.phase == "send" and not task.done() for task, line in zip(tasks, lines, strict=True)):
            await asyncio.sleep(0)

    async def _only(self, line: Line, flow: Flow) -> None:
        await self.on(line, flow, time.monotonic())
        line.close()

    def _track(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self.running.add(task)
        task.add_done_callback(self.running.discard)
        return task

    # -- what

    async def one(self, flow: Flow, due: float) -> None:
        """One request, on a connection as its flow wants it."""
        pool = self.pools[flow]
        line = self._kept(flow, pool, due)
        if line is None:
            sent = time.monotonic()
            try:
                line = await connect(flow.addresses, self.plan.timeout)
            except Lost as lost:
                self.note(flow, self.name(), due, sent, lost, False)
                return
            pool.open += bool(flow.keep)
        if await self.on(line, flow, due) and pool.open <= pool.size:
            pool.idle.append(line)
            return
        pool.open -= bool(flow.keep)
        await self._finish(line, flow)

    def _kept(self, flow: Flow, pool: Pool, due: float) -> Line | None:
        while line := pool.take():
            what = line.idle()
            if not what:
                return line
            line.close()
            pool.open -= 1
            if what == "closed":
                self.closed_idle += 1
            else:
                now = time.monotonic()
                self.note(flow, self.name(), due, now, Lost(what, "idle", "while no request was under way"), True)
        return None

    async def on(self, line: Line, flow: Flow, due: float) -> bool:
        """Make one request on this connection; True if the connection can be used again."""
        ident, sent, reused = self.name(), time.monotonic(), line.served > 0
        try:
            answer = await exchange(line, flow, ident, self.plan.timeout)
        except Lost as lost:
            self.note(flow, ident, due, sent, lost, reused)
            return False
        done = time.monotonic()
        if not flow.keep and await rest(line, LINGER):
            self.note(flow, ident, due, sent, Lost(DOUBLED, "after", "bytes behind the answer"), reused)
        else:
            self.note(flow, ident, due, sent, answer, reused, done)
        return bool(flow.keep) and answer.reusable

    async def _finish(self, line: Line, flow: Flow) -> None:
        """Close it; on a kept one that the server has announced to close, something may come that should not."""
        if flow.keep and line.phase == "after" and line.idle() == DOUBLED:
            now = time.monotonic()
            self.note(flow, self.name(), now, now, Lost(DOUBLED, "after", "bytes behind the last answer"), True)
        line.close()

    # -- notes

    def name(self) -> str:
        """A new id."""
        return f"{self.plan.seed}-{os.getpid()}-{next(self.numbers)}"

    def note(
        self, flow: Flow, ident: str, due: float, sent: float, what: Answer | Lost, reused: bool, done: float = 0.0
    ) -> None:
        """Write down what became of one request."""
        head = (ident, flow.service, flow.kind, due, sent, done or time.monotonic())
        if isinstance(what, Lost):
            record = Record(*head, what.outcome, what.phase, reused, detail=what.detail)
        else:
            record = Record(*head, OK, "after", reused, what.pid, what.generation, what.code)
        self.out.write(record.line())

    async def pause(self) -> None:
        """Send nothing more, and wait for all that is under way."""
        self.stopping.set()
        while self.running:
            await asyncio.wait(self.running)

    async def close(self) -> None:
        """Wait for all that is under way, and close what is kept."""
        await self.pause()
        for pool in self.pools.values():
            for line in pool.idle:
                line.close()


async def main(plan: Plan, out: TextIO) -> None:
    """Send, and obey stdin."""
    loop = asyncio.get_running_loop()
    client = Client(plan, out)
    flows = [asyncio.create_task(client.run(flow)) for flow in plan.flows]
    reader = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    try:
        while True:
            order: dict[str, Any] = json.loads(await reader.readline() or '{"do": "quit"}')
            if order["do"] == "burst":
                flow = Flow.read(order["flow"])
                client.pools.setdefault(flow, Pool(flow.keep))
                await client.burst(flow, order["count"])
            elif order["do"] == "pause":
                await client.pause()
            else:
                await client.close()
                await asyncio.gather(*flows)
            out.flush()
            sys.stdout.write(json.dumps({"done": order["do"], "closed_idle": client.closed_idle}) + "\n")
            sys.stdout.flush()
            if order["do"] == "quit":
                return
    finally:
        transport.close()


def run() -> None:
    """The program."""
    plan = Plan.read(Path(sys.argv[1]))
    try:
        import uvloop

        factory = uvloop.new_event_loop
    except ModuleNotFoundError:
        factory = asyncio.new_event_loop
    with open(sys.argv[2], "w") as out, asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main(plan, out))


if __name__ == "__main__":
    run()
