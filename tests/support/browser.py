"""A real browser without a screen: what a page looks like, and what it measures of itself."""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import subprocess
import zlib
from collections import Counter
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.wait import until

__all__ = ["Picture", "picture", "probe"]

PROGRAMS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
WORDS = (
    "--headless",
    "--no-sandbox",  # tests may run as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)
PATIENCE = 90.0
"""Seconds; a first start reads a hundred megabytes."""


class Picture(NamedTuple):
    """A screenshot."""

    width: int
    height: int
    colours: Counter[bytes]
    """How many pixels have this red, green and blue."""

    @property
    def ground(self) -> bytes:
        """The most frequent colour."""
        return self.colours.most_common(1)[0][0]


def picture(page: Path, width: int, height: int, *, dark: bool) -> Picture:
    """Take a screenshot of the top of a page, as somebody sees it who likes it dark or light."""
    path = page.with_suffix(f".{width}-{'dark' if dark else 'light'}.png")
    _run(page, f"--window-size={width},{height}", f"--screenshot={path}", *_scheme(dark))
    return _read(path.read_bytes())


def _scheme(dark: bool) -> list[str]:
    return [f"--blink-settings=preferredColorScheme={0 if dark else 1}"]


def probe(page: Path, script: str, width: int, height: int = 900) -> Any:
    """What a script finds in a copy of the page: the body of a function that returns something for JSON."""
    runs = f"<script>addEventListener('load', () => {{ const found = (() => {{ {script} }})();"
    runs += "document.body.setAttribute('data-found', JSON.stringify(found)) })</script>"
    copy = page.with_suffix(".probe.html")
    copy.write_text(page.read_text().replace("</head>", f"{runs}</head>"))
    dom = _run(copy, f"--window-size={width},{height}", "--dump-dom")
    [found] = re.findall(r'data-found="([^"]*)"', dom)
    return json.loads(unescape(found))


def _run(page: Path, *words: str) -> str:
    program = next((found for name in PROGRAMS if (found := shutil.which(name))), None)
    if program is None:
        if os.environ.get("CI") == "true":
            pytest.fail("no Chromium: scripts/test-packages.sh installs one")
        pytest.skip("no Chromium: apt-get install chromium-headless-shell")
    profile = page.parent / "profile"
    argv = [program, *WORDS, f"--user-data-dir={profile}", *words, page.as_uri()]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True) as popen:
        try:
            out, err = popen.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            popen.kill()
            raise
        finally:
            until(lambda: _gone(popen.pid), timeout=20, what="the browser's other processes to end")
    assert popen.returncode == 0, err.decode(errors="replace")[-2000:]
    return out.decode()


def _gone(group: int) -> bool:
    """Reap those whose parent has ended before them: they are ours then."""
    try:
        while os.waitid(os.P_PGID, group, os.WEXITED | os.WNOHANG) is not None:
            pass
    except ChildProcessError:
        return True
    return False


# -- PNG, as far as browsers write it: eight bits a channel, RGB or RGBA, not interlaced ------------------------------


def _read(png: bytes) -> Picture:
    chunks = dict[bytes, bytes]()
    for kind, body in _chunks(png):
        chunks[kind] = chunks.get(kind, b"") + body
    width, height, depth, colour, *_, interlaced = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert (depth, interlaced) == (8, 0) and colour in (2, 6), "no such PNG is expected here"
    step = 3 if colour == 2 else 4
    colours: Counter[bytes] = Counter()
    for row in _rows(zlib.decompress(chunks[b"IDAT"]), width * step, step):
        colours.update(bytes(row[at : at + 3]) for at in range(0, len(row), step))
    return Picture(width, height, colours)


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 8
    while at < len(png):
        (length,) = struct.unpack_from(">I", png, at)
        yield png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        at += length + 12


def _rows(data: bytes, length: int, step: int) -> Iterator[bytearray]:
    above = bytearray(length)
    for at in range(0, len(data), length + 1):
        row = bytearray(data[at + 1 : at + 1 + length])
        _unfilter(data[at], row, above, step)
        yield row
        above = row


def _unfilter(kind: int, row: bytearray, above: bytearray, step: int) -> None:
    for at in range(len(row)) if kind else ():
        left = row[at - step] if at >= step else 0
        up, corner = above[at], above[at - step] if at >= step else 0
        row[at] = (row[at] + (left, up, (left + up) // 2, _paeth(left, up, corner))[kind - 1]) & 255


def _paeth(left: int, up: int, corner: int) -> int:
    guess = left + up - corner
    return min((left, up, corner), key=lambda each: abs(guess - each))
