"""A directory with a configuration file and small programs in it, and the wires by which these talk to the test."""

from __future__ import annotations

import json
import os
import select
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from tests.support.server import Listener, Trapeze, listen_tcp
from tests.support.wait import until

__all__ = ["APPS", "Closable", "Gate", "Site", "Wire", "ignored_of", "run_command"]

APPS = Path(__file__).parent / "apps"
"""Programs and apps that misbehave on purpose."""


class Closable(Protocol):
    """What is closed after the test."""

    def close(self) -> None:
        """Close it."""


class Wire:
    """A FIFO that programs write lines to. Its end of file says that all who had opened it have gone: see `rest`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path)
        path.chmod(0o622)
        self.fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self._hold = os.open(path, os.O_WRONLY)  # no end of file while one program goes and the next comes
        self._data = b""

    def __str__(self) -> str:
        return str(self.path)

    def line(self, timeout: float = 15) -> str:
        """Wait for the next line."""
        while b"\n" not in self._data:
            self._data += self._read(timeout)
        line, _, self._data = self._data.partition(b"\n")
        return line.decode()

    def lines(self, count: int) -> list[str]:
        """Wait for so many lines."""
        return [self.line() for _ in range(count)]

    def facts(self) -> dict[str, Any]:
        """Wait for a line of JSON."""
        return dict(json.loads(self.line()))

    def rest(self, timeout: float = 15) -> list[str]:
        """Wait until all writers have gone; the lines that were not read yet. Its last use."""
        self._let_go()
        while chunk := self._read(timeout):
            self._data += chunk
        lines, self._data = self._data.decode().splitlines(), b""
        return lines

    def reopen(self) -> None:
        """Use it again after `rest`."""
        self._hold = os.open(self.path, os.O_WRONLY)

    def silent(self) -> bool:
        """Has nobody said anything more, and does somebody still hold it open? (Its last use, but for `rest`.)"""
        self._let_go()
        return not self._data and not self._poll(0)

    def _let_go(self) -> None:
        if self._hold >= 0:
            os.close(self._hold)
        self._hold = -1

    def _poll(self, timeout: float) -> bool:
        poller = select.poll()
        poller.register(self.fd, select.POLLIN)
        return bool(poller.poll(timeout * 1000))

    def _read(self, timeout: float) -> bytes:
        end = time.monotonic() + timeout
        while self._poll(max(0.0, end - time.monotonic())):
            try:
                return os.read(self.fd, 65536)
            except BlockingIOError:
                continue
        raise TimeoutError(f"nothing on {self.path.name} within {timeout:g} s; so far: {self._data!r}")

    def close(self) -> None:
        """Close our ends."""
        self._let_go()
        os.close(self.fd)


class Gate:
    """A FIFO in front of which programs wait: they open it for reading, which takes until the test opens it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path)
        path.chmod(0o644)
        self._fd = -1

    def __str__(self) -> str:
        return str(self.path)

    def open(self) -> None:
        """Let those go who wait; waits for the first to be there."""
        self.close()
        self._fd = until(self._try, what=f"somebody at {self.path.name}")
        self.close()

    def _try(self) -> int:
        try:
            return os.open(self.path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            return 0

    def stay_open(self) -> None:
        """Let everybody through from now on: those who wait, and those who come to a file in its place."""
        self.close()
        self._fd = os.open(self.path, os.O_RDWR | os.O_NONBLOCK)
        os.write(self._fd, b"\n" * 60_000)
        file = self.path.with_suffix(".open")
        file.write_text("go\n")
        file.rename(self.path)

    def close(self) -> None:
        """Close our end."""
        if self._fd > 0:
            os.close(self._fd)
        self._fd = -1


class Site:
    """What one test writes: `site.up('[services.x] ...')` runs it."""

    def __init__(self, directory: Path, trapeze: Callable[..., Trapeze], opened: list[Closable]) -> None:
        self.directory = directory
        self.file = directory / "trapeze.toml"
        self._trapeze = trapeze
        self._opened = opened

    def write(self, name: str, text: str) -> Path:
        """Write a file, under another name first: nobody sees half of it. Its time stamp is a new one, in whole
        seconds: by these Python tells whether what it has compiled of a file is what is in it."""
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}.new")
        fresh.write_text(text)
        if path.exists() and int(fresh.stat().st_mtime) <= (before := int(path.stat().st_mtime)):
            os.utime(fresh, (before + 1, before + 1))
        fresh.rename(path)
        return path

    def wire(self) -> Wire:
        """Lay a wire."""
        wire = Wire(self.directory / f"wire-{len(self._opened)}")
        self._opened.append(wire)
        return wire

    def gate(self) -> Gate:
        """Put up a gate."""
        gate = Gate(self.directory / f"gate-{len(self._opened)}")
        self._opened.append(gate)
        return gate

    def tcp(self) -> Listener:
        """Listen on a port that the kernel chooses."""
        listener = listen_tcp()
        self._opened.append(listener)
        return listener

    def up(self, config: str, *flags: str, **options: Any) -> Trapeze:
        """Write the configuration and start `trapeze up` with it."""
        self.write("trapeze.toml", config)
        return self._trapeze("up", "-c", str(self.file), *flags, **options)

    def serve(self, app: str, *flags: str, listeners: list[Listener], **options: Any) -> Trapeze:
        """Start `trapeze serve` with this directory as the app's."""
        return self._trapeze("serve", app, "--app-dir", str(self.directory), *flags, listeners=listeners, **options)


def run_command(program: str, *words: object) -> str:
    """The command line of one of the programs in `apps`, quoted as the value of a key in TOML."""
    return json.dumps(shlex.join([sys.executable, "-S", "-E", str(APPS / program), *(str(word) for word in words)]))


def ignored_of(mask: str) -> int:
    """The signals that SigIgn in /proc/PID/status says are ignored, those of the C library (32 and 33) left out.

    GNU make passes these two on as ignored, and no program can change that by ordinary means.
    """
    return int(mask, 16) & 0x7FFF_FFFF
