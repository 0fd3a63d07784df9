"""The notify protocol: what a datagram says. Pure.

The protocol is systemd's sd_notify(3): newline-separated KEY=VALUE pairs. Ours adds X_TRAPEZE (facts about the worker,
JSON) and X_TRAPEZE_ERROR (why it could not start, JSON).
"""

from __future__ import annotations

from typing import TypeVar

import msgspec
from msgspec import Struct

__all__ = ["Facts", "Message", "StartError", "parse"]


_T = TypeVar("_T")


class Facts(Struct, frozen=True):
    """What a worker of ours says with READY=1."""

    interface: str = ""
    backend: str = ""
    version: str = ""
    unsafe: str = ""
    """Of a zygote: why the app is not one to be forked; empty when it is."""
    faster: str = ""
    """A server that is installed too and faster for most apps, where `backend = "auto"` has chosen; or empty."""


class StartError(Struct, frozen=True):
    """Why a worker of ours could not start."""

    message: str
    traceback: str = ""
    hint: str = ""


class Message(Struct, frozen=True):
    """One datagram, understood."""

    ready: bool = False
    stopping: bool = False
    status: str | None = None
    watchdog: bool = False
    extend: float | None = None
    """EXTEND_TIMEOUT_USEC in seconds."""
    facts: Facts | None = None
    error: StartError | None = None
    recycle: str = ""
    """The worker asks to be replaced, and why."""


def parse(datagram: bytes) -> Message:
    """Return what `datagram` says. What is not understood is ignored: a child can send anything."""
    fields: dict[str, str] = {}
    for line in datagram.decode("utf-8", "replace").split("\n"):
        key, equals, value = line.partition("=")
        if equals:
            fields[key] = value
    return Message(
        ready=fields.get("READY") == "1",
        stopping=fields.get("STOPPING") == "1",
        status=fields.get("STATUS"),
        watchdog=fields.get("WATCHDOG") == "1",
        extend=_microseconds(fields.get("EXTEND_TIMEOUT_USEC")),
        facts=_decoded(fields.get("X_TRAPEZE"), Facts),
        error=_decoded(fields.get("X_TRAPEZE_ERROR"), StartError),
        recycle=fields.get("X_TRAPEZE_RECYCLE", ""),
    )


def _microseconds(text: str | None) -> float | None:
    # isdecimal() alone admits digits of other scripts, which int() takes but no program sends.
    if text is None or not (text.isascii() and text.isdecimal()) or len(text) > 18:
        return None
    return int(text) / 1e6


def _decoded(text: str | None, kind: type[_T]) -> _T | None:
    if text is None:
        return None
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.MsgspecError:
        return None
