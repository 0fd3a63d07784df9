"""A load on a server, by a client in a process of its own, and what can be said of what it measured."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple

from trapeze_bench.openloop import TIMEOUT, Plan, Result
from trapeze_bench.targets import Failed, environment_of_ours

__all__ = ["BUSY", "KEPT", "Load", "Period", "Processors", "counted", "loaded", "quantile", "within"]

KEPT = 32
"""Connections of a kept-alive load."""
PRECEDENCE = -15
"""Niceness of the client. It stands for clients on other machines: what it waits for a processor here is no time of the
server's, and would fall on the periods in which the server has much to do."""
BUSY = 95.0
"""Per cent of all processors above which times say more about the queue for them than about the server."""


class Period(NamedTuple):
    """A stretch of time."""

    began: float
    ended: float
    """Monotonic seconds."""


class Load:
    """A client that runs."""

    def __init__(self, popen: subprocess.Popen[bytes], path: str) -> None:
        self.popen = popen
        self.path = path

    def end(self) -> None:
        """Send no more. `stop` has to be called all the same."""
        assert self.popen.stdin is not None
        self.popen.stdin.close()

    def stop(self) -> Result:
        """Send no more; return when all that was under way has ended."""
        self.end()
        if self.popen.wait(TIMEOUT + 20):
            raise Failed(f"the load client ended with status {self.popen.returncode}")
        result = Result.read(self.path)
        if result.exhausted:
            raise Failed(f"the load client ran out of something of its own, see --rate: {result.exhausted}")
        return result


@contextmanager
def loaded(plan: Plan) -> Iterator[Load]:
    """Put a server under load until it is stopped or left."""
    with tempfile.TemporaryDirectory(prefix="trapeze-load-") as directory:
        path = os.path.join(directory, "result")
        asked = os.path.join(directory, "plan")  # a file: the kernel takes no word of 128 KiB, and requests have bodies
        with open(asked, "w") as file:
            json.dump(plan._asdict(), file)
        argv = [sys.executable, "-m", "trapeze_bench.openloop", asked, path]
        popen = subprocess.Popen(
            argv,
            env=environment_of_ours(directory),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            process_group=0,  # ^C of a terminal is for us to pass on
        )
        with suppress(OSError):  # without the right to it, the note says how late the client was
            os.setpriority(os.PRIO_PROCESS, popen.pid, PRECEDENCE)
        try:
            assert popen.stdout is not None
            if popen.stdout.readline() != b"go\n":
                raise Failed("the load client did not begin")
            yield Load(popen, path)
        finally:
            if popen.poll() is None:
                popen.kill()
            popen.wait()
            for pipe in (popen.stdin, popen.stdout):
                if pipe is not None:
                    pipe.close()


def within(result: Result, periods: Sequence[Period]) -> list[float]:
    """How long those requests took that were due in these periods, sorted."""
    return sorted(
        took
        for due, took in zip(result.due, result.took, strict=True)
        if any(period.began <= due < period.ended for period in periods)
    )


def counted(lost: Sequence[tuple[float, str]]) -> str:
    """What happened to them, the most frequent first."""
    return ", ".join(f"{number} {why}" for why, number in Counter(why for _, why in lost).most_common())


def quantile(values: Sequence[float], part: float) -> float:
    """The value that so large a part of the sorted values does not exceed."""
    if not values:
        raise Failed("no request was answered in the time that was measured")
    return values[min(int(len(values) * part), len(values) - 1)]


class Processors:
    """Per cent of all processors that anybody used, from look to look."""

    def __init__(self) -> None:
        self.last = _ticks()
        self.found: list[float] = []

    def look(self, *, count: bool = True) -> None:
        """Note the share since the last look, or only begin anew."""
        now = _ticks()
        total = now[0] - self.last[0]
        if total and count:
            self.found.append(100 * (1 - (now[1] - self.last[1]) / total))
        self.last = now

    @property
    def share(self) -> float:
        """The middle of what was noted."""
        return statistics.median(self.found) if self.found else 0.0


def _ticks() -> tuple[int, int]:
    """All, and those in which a processor had nothing to do."""
    with open("/proc/stat") as file:
        fields = [int(word) for word in file.readline().split()[1:9]]
    return sum(fields), fields[3] + fields[4]
