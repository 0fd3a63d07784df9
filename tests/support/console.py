"""A console on descriptors of the test, and what comes out at their other ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Coroutine, Iterator, Mapping

from trapeze.console import Console
from trapeze.output import LogLine

__all__ = ["MIB", "console", "line", "pipe", "read", "run", "turn"]

MIB = 1024 * 1024


def run(main: Callable[[], Coroutine[object, object, None]]) -> None:
    """Run a coroutine to its end; an error that only the loop hears of is an error of the test."""

    async def bounded() -> None:
        errors: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
        async with asyncio.timeout(20):
            await main()
        assert errors == []

    asyncio.run(bounded())


@contextlib.contextmanager
def console(
    stdout: int, stderr: int = -1, *, limit: int = MIB, environ: Mapping[str, str] | None = None
) -> Iterator[Console]:
    made = Console(
        asyncio.get_running_loop(),
        stdout=stdout,
        stderr=stdout if stderr == -1 else stderr,
        environ=environ or {},
        limit=limit,
    )
    try:
        yield made
    finally:
        made.close()


@contextlib.contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    r, w = os.pipe()
    os.set_blocking(r, False)
    try:
        yield r, w
    finally:
        for fd in (r, w):
            with contextlib.suppress(OSError):
                os.close(fd)


def line(text: str, service: str = "web", index: int | None = 0, stream: str = "stdout", more: bool = False) -> LogLine:
    return LogLine(0.0, service, index, 7, stream, text, more)


def read(fd: int) -> str:
    """What can be read now."""
    data = bytearray()
    with contextlib.suppress(BlockingIOError):
        while chunk := os.read(fd, 65536):
            data += chunk
    return data.decode()


async def turn() -> None:
    """Let the loop do what it has been asked to."""
    for _ in range(3):
        await asyncio.sleep(0)
