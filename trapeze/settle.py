"""Waiting for what was asked: look, and look again after each change, until it is so, has failed, or takes too long."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

from trapeze.calls import Call, ShutdownQuery, Supervisor, WriteQuery, error_body
from trapeze.door import Reply
from trapeze.status import Ticket, Transition

__all__ = ["change", "deadline_in", "farewell", "settle"]

_STILL = 10.0
"""Seconds without news after which a client that wants progress is told that it still goes on: imports may be slow."""


async def settle(call: Call, ticket: Ticket, since: int) -> Reply:
    """Answer at once, or when what was asked for is so or has failed."""
    query: WriteQuery = call.query
    if query.wait is None:
        return Reply(
            202, _answer(call.supervisor, ticket, settled=False, message=call.supervisor.progress(ticket).message)
        )
    if query.progress:
        return Reply(200, lines=_progress_lines(call.supervisor, ticket, query.wait, since))
    deadline = deadline_in(query.wait)
    while True:
        seen = call.supervisor.revision
        verdict = _verdict(call.supervisor, ticket)
        if verdict is not None:
            return verdict
        if not await change(call.supervisor, seen, deadline):
            return _timeout(query.wait, call.supervisor.progress(ticket).message)


async def _progress_lines(supervisor: Supervisor, ticket: Ticket, wait: float, since: int) -> AsyncIterator[object]:
    begun, deadline = deadline_in(0.0), deadline_in(wait)
    yield {"ticket": ticket}  # with which a client can ask again, should this stream end before the order is done
    while True:
        seen = supervisor.revision
        verdict = _verdict(supervisor, ticket)
        for transition in supervisor.transitions(since):
            if transition.service in ticket.services:
                yield {"transition": transition}
        since = seen
        if verdict is not None:
            yield _as_line(verdict)
            return
        while not await change(supervisor, seen, min(deadline, deadline_in(_STILL))):
            message = supervisor.progress(ticket).message
            if deadline_in(0.0) >= deadline:
                yield _as_line(_timeout(wait, message))
                return
            waited = f"{deadline_in(0.0) - begun:.0f} s so far: {message}"
            yield {"transition": Transition(revision=seen, at=time.time(), service="", why=waited)}


def _verdict(supervisor: Supervisor, ticket: Ticket) -> Reply | None:
    progress = supervisor.progress(ticket)
    if progress.failed:
        return error_body(409, progress.code or "failed", progress.message, output=progress.output)
    if progress.done:
        return Reply(200, _answer(supervisor, ticket, settled=True, message=progress.message))
    return None


def _answer(supervisor: Supervisor, ticket: Ticket, *, settled: bool, message: str) -> dict[str, object]:
    services = {name: {"generation": generation} for name, generation in ticket.services.items()}
    revision = supervisor.revision if settled else ticket.revision
    return {"revision": revision, "services": services, "settled": settled, "message": message}


def _timeout(wait: float, message: str) -> Reply:
    hint = "it goes on all the same; `trapeze status` shows how far it is"
    return error_body(
        504, "timeout", f"not done after {round(wait, 2):g} s" + (f": {message}" if message else ""), hint=hint
    )


def _as_line(reply: Reply) -> object:
    """The last line of a stream: an answer, or an error with the status it would have had."""
    return {"answer": reply.value} if reply.status < 400 else {"error": reply.value, "status": reply.status}


def deadline_in(wait: float) -> float:
    """Return the time of the loop's clock that is *wait* seconds away."""
    return asyncio.get_running_loop().time() + wait


async def change(supervisor: Supervisor, revision: int, deadline: float) -> bool:
    """Wait until something has changed; False if nothing did before the deadline."""
    try:
        async with asyncio.timeout_at(deadline):
            await supervisor.changed(revision)
    except TimeoutError:
        return False
    return True


async def farewell(supervisor: Supervisor, answer: object, query: ShutdownQuery, since: int) -> AsyncIterator[object]:
    """Stay until the supervisor is gone, which ends the connection; it cannot be said, only seen."""
    deadline = deadline_in(query.wait or 0.0)
    yield {"answer": answer}
    while True:
        seen = supervisor.revision
        for transition in supervisor.transitions(since) if query.progress else ():
            yield {"transition": transition}
        since = seen
        if not await change(supervisor, seen, deadline):
            yield _as_line(_timeout(query.wait or 0.0, "still stopping"))
            return
