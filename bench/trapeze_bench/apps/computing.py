"""Stands for apps that compute: some milliseconds of pure Python for each request; `?n=100000` for more of them.

It is an amount of work, and no time: an app that computed until a clock says so would do less work where the machine
is busy, and hide what is measured. More threads or connections make nothing faster here, more processes do.
"""

from __future__ import annotations

from collections.abc import Iterable

from trapeze_bench.apps.plain import Receive, Scope, Send, Start, WsgiEnviron, answer, lifespan, number, start

__all__ = ["asgi", "compute", "wsgi"]

ROUNDS = 40_000
"""Some 3 ms on a processor of 2020."""
GREATEST = 100_000_000


def compute(rounds: int) -> int:
    """Something that no optimiser takes away: a linear congruential generator."""
    value = 1
    for _ in range(rounds):
        value = (value * 1_103_515_245 + 12_345) & 0x7FFF_FFFF
    return value


def _body(query: str) -> bytes:
    return b"%d\n" % compute(number(query, "n", ROUNDS, GREATEST))


def wsgi(environ: WsgiEnviron, start_response: Start) -> Iterable[bytes]:
    """Compute, answer with the result."""
    body = _body(environ.get("QUERY_STRING", ""))
    start(start_response, len(body))
    return [body]


async def asgi(scope: Scope, receive: Receive, send: Send) -> None:
    """The same. It blocks the loop, as computing does."""
    if scope["type"] == "lifespan":
        return await lifespan(receive, send)
    await answer(send, _body(scope["query_string"].decode("latin-1")))
