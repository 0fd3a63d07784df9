"""Lines on our own stdout and stderr, with an aligned, coloured prefix that says whose they are."""

from __future__ import annotations

import asyncio
import os
import time
import zlib
from collections.abc import Iterable, Mapping

from trapeze.output import LogLine
from trapeze.sink import BUFFER_LIMIT, Sink

__all__ = ["Console"]

OWN = "trapeze"
"""Service name and prefix of what trapeze says itself."""
PALETTE = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)
"""SGR colours of the prefixes; red is left to the children."""


class Console:
    """Writes lines to stdout (what children print there) and stderr (their stderr, and what trapeze says)."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        stdout: int = 1,
        stderr: int = 2,
        environ: Mapping[str, str] = os.environ,
        limit: int = BUFFER_LIMIT,
    ) -> None:
        """Write through these descriptors, which stay the caller's; one that is not open takes nothing.

        `NO_COLOR` (not empty) turns colours off, else `FORCE_COLOR` (not empty, not "0") turns them on, else a terminal
        that is not "dumb" decides, each descriptor for itself. `limit` is in bytes, per descriptor.
        """
        self._width = len(OWN)
        self._prefixes: dict[tuple[str, int | None, bool], bytes] = {}
        self._colours: dict[str, int] = {}
        self._out = Sink(loop, stdout, limit, lambda text: self._own(text, self._colour_out))
        # Two descriptors of one terminal, pipe or file share a queue: what was printed first comes first.
        same = _same(stdout, stderr)
        self._err = self._out if same else Sink(loop, stderr, limit, lambda text: self._own(text, self._colour_err))
        self._colour_out = _coloured(environ, self._out.tty)
        self._colour_err = _coloured(environ, self._err.tty)

    def reserve(self, names: Iterable[str]) -> None:
        """Make room for these service names (and a one-digit index) in the prefix, and give each its colour."""
        for name in names:
            self._colour(name)
            self._widen(len(name) + (0 if name == OWN else 2))

    def write(self, line: LogLine) -> None:
        """Print a line; usable as a sink of the journal. Neither blocks nor raises."""
        if line.stream == "stdout":
            sink, coloured = self._out, self._colour_out
        else:
            sink, coloured = self._err, self._colour_err
        prefix = self._prefixes.get((line.service, line.index, coloured))
        if prefix is None:
            prefix = self._prefix(line.service, line.index, coloured)
        source = (line.service, line.index, line.pid, line.stream)
        sink.put(source, prefix, line.text.encode("utf-8", "backslashreplace"), line.more)

    def say(self, text: str) -> None:
        """Print something of trapeze's own on stderr, each of its lines with the prefix."""
        for each in text.splitlines() or [""]:
            self.write(LogLine(0.0, OWN, None, None, "trapeze", each))

    def _own(self, text: str, coloured: bool) -> bytes:
        return self._prefix(OWN, None, coloured) + text.encode() + b"\n"

    def _prefix(self, service: str, index: int | None, coloured: bool) -> bytes:
        name = service.encode("utf-8", "backslashreplace").decode()
        label = name if index is None else f"{name}.{index}"
        self._widen(len(label))
        text = f"{label:<{self._width}} | "
        if coloured:
            # "0;" first: a child that left its own colour on does not spoil our prefix.
            text = f"\x1b[0;{self._colour(service)}m{text}\x1b[0m"
        prefix = self._prefixes[service, index, coloured] = text.encode()
        return prefix

    def _widen(self, width: int) -> None:
        if width > self._width:
            self._width = width
            self._prefixes.clear()

    def _colour(self, service: str) -> int:
        """Its colour follows from its name, unless another service has that one and there is a free one."""
        if service == OWN:
            return 1
        found = self._colours.get(service)
        if found is None:
            start, taken = zlib.crc32(service.encode("utf-8", "backslashreplace")), set(self._colours.values())
            turn = [PALETTE[(start + step) % len(PALETTE)] for step in range(len(PALETTE))]
            found = next((colour for colour in turn if colour not in taken), turn[0])
            self._colours[service] = found
        return found

    @property
    def waiting(self) -> tuple[bytes, bytes]:
        """What is not written yet to stdout and to stderr; where they are one, all of it is stdout's."""
        return self._out.waiting, b"" if self._err is self._out else self._err.waiting

    def resume(self, waiting: tuple[bytes, bytes]) -> None:
        """Write first what another program in our place has left."""
        for sink, data in zip((self._out, self._err), waiting, strict=True):
            if data:
                sink.resume(data)

    def flush(self, timeout: float = 1.0) -> bool:
        """Write what waits, blocking up to `timeout` seconds: for the end. Return whether all is out."""
        deadline = time.monotonic() + timeout
        done = self._out.flush(deadline)
        return (self._err is self._out or self._err.flush(deadline)) and done

    def close(self) -> None:
        """Let go of the descriptors; the ones given stay open. What still waits is forgotten: `flush` first."""
        self._out.close()
        self._err.close()


def _same(one: int, other: int) -> bool:
    try:
        return os.path.samestat(os.fstat(one), os.fstat(other))
    except OSError:
        return False


def _coloured(environ: Mapping[str, str], tty: bool) -> bool:
    if environ.get("NO_COLOR"):
        return False
    if environ.get("FORCE_COLOR"):
        return environ["FORCE_COLOR"] != "0"
    return tty and environ.get("TERM") != "dumb"
