"""What the load client notes of each request: plain data, written as one line of JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

__all__ = [
    "DOUBLED",
    "LOST",
    "NEVER_LIVE",
    "OK",
    "REFUSED",
    "RESET",
    "TIMED_OUT",
    "UNFINISHED",
    "WRONG_BODY",
    "WRONG_STATUS",
    "Flow",
    "Record",
]

OK = "ok"
REFUSED = "refused"
"""No connection: nobody listens, the path is gone, the listen queue is full."""
RESET = "reset"
"""The connection was reset, or closed against what we wrote."""
UNFINISHED = "unfinished"
"""The connection was closed in order, before the answer or within it."""
TIMED_OUT = "timed out"
WRONG_STATUS = "wrong status"
"""A status that the app did not give: 502 of a proxy, 503 of a server."""
WRONG_BODY = "wrong body"
"""An answer to something else, cut, mixed up; or what we sent did not arrive whole."""
DOUBLED = "doubled"
"""Two answers, or executed twice."""
NEVER_LIVE = "never live"
"""Answered by a process or a generation that was not in service then."""

LOST = (REFUSED, RESET, UNFINISHED, TIMED_OUT, WRONG_STATUS, WRONG_BODY, DOUBLED, NEVER_LIVE)


class Flow(NamedTuple):
    """One stream of requests of one kind to one service."""

    service: str
    kind: str
    addresses: tuple[str, ...]
    """Tried in turn until one takes the connection: `127.0.0.1:80`, `unix:/path`."""
    rate: float
    """Requests per second."""
    method: str = "GET"
    keep: int = 0
    """So many connections are kept and used in turn, so each is idle for about keep / rate seconds; 0: a fresh one
    for each request."""
    pieces: int = 1
    """The request is written in so many pieces..."""
    pause: float = 0.0
    """...with so many seconds between them."""
    busy: float = 0.0
    """Seconds that the app takes."""
    size: int = 0
    """Bytes of padding in the answer, and of the body of a POST."""

    @classmethod
    def read(cls, fields: Sequence[object]) -> Flow:
        """Make it of what JSON has made of it."""
        service, kind, addresses, *rest = fields
        assert isinstance(addresses, list)
        return cls(service, kind, tuple(addresses), *rest)  # type: ignore[arg-type]


class Record(NamedTuple):
    """One request. Times are CLOCK_MONOTONIC, seconds: the same clock for all processes of the machine."""

    id: str
    service: str
    kind: str
    due: float
    sent: float
    """When the client got round to it."""
    done: float
    outcome: str
    phase: str
    """What was under way: connect, send, wait (no byte of the answer yet), answer, after."""
    reused: bool
    """On a connection that had served before."""
    pid: int = 0
    generation: str = ""
    code: str = ""
    detail: str = ""

    def line(self) -> str:
        """One line of JSON."""
        return json.dumps(self) + "\n"

    @classmethod
    def read(cls, line: str) -> Record:
        """The opposite of `line`."""
        return cls(*json.loads(line))
