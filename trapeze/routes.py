"""What can be asked at the control door: one route a verb, each with the query parameters it takes.

Reads never change anything. A write calls one verb of the supervisor, which changes what is wanted; what it returns
names the revision and the generations that will satisfy it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec
from msgspec import Struct

from trapeze import config, metrics
from trapeze.calls import (
    Call,
    EventsQuery,
    LogsQuery,
    NoQuery,
    ProcessQuery,
    Refusal,
    ScaleQuery,
    SettledQuery,
    ShutdownQuery,
    SignalQuery,
    Supervisor,
    UpgradeQuery,
    WriteQuery,
    error_body,
)
from trapeze.door import Reply, Request, Text
from trapeze.errors import TrapezeError, UnknownName, WaitTimeout
from trapeze.limits import parse_signal
from trapeze.settle import change, deadline_in, farewell, settle
from trapeze.status import Ticket

if TYPE_CHECKING:
    from trapeze.output import Journal, LogLine

__all__ = ["ROUTES", "dispatch"]


class Route(NamedTuple):
    method: str
    path: str
    query: type[Struct]
    run: Callable[[Call], Awaitable[Reply]]
    doc: str


# ---- reads


async def _root(call: Call) -> Reply:
    listed = [
        {"method": route.method, "path": route.path, "query": list(route.query.__struct_fields__), "doc": route.doc}
        for route in ROUTES
    ]
    return Reply(200, {"routes": listed})


async def _status(call: Call) -> Reply:
    return Reply(200, call.supervisor.snapshot())


async def _metrics(call: Call) -> Reply:
    return Reply(200, Text(metrics.KIND, metrics.render(call.supervisor.snapshot())))


async def _config(call: Call) -> Reply:
    resolved = call.supervisor.resolved
    return Reply(200, {"config": config.masked(resolved), "origins": dict(resolved.origins)})


async def _events(call: Call) -> Reply:
    query: EventsQuery = call.query
    if query.wait is not None and not query.follow and not call.supervisor.transitions(query.since):
        await change(call.supervisor, call.supervisor.revision, deadline_in(query.wait))
    return Reply(200, lines=_event_lines(call.supervisor, query.since, follow=query.follow))


async def _settled(call: Call) -> Reply:
    query: SettledQuery = call.query
    try:
        ticket = msgspec.json.decode(query.ticket, type=Ticket)
    except msgspec.DecodeError as error:
        raise Refusal(400, "usage", f"/settled: ticket: {error}") from None
    return await settle(call, ticket, query.since)


async def _event_lines(supervisor: Supervisor, since: int, *, follow: bool) -> AsyncIterator[object]:
    while True:
        # Taken from the ring afresh each time: nothing piles up for a client that reads slowly.
        seen = supervisor.revision
        for transition in supervisor.transitions(since):
            yield transition
        if not follow:
            return
        since = seen
        await supervisor.changed(since)


async def _logs(call: Call) -> Reply:
    query: LogsQuery = call.query
    known = [service.name for service in call.supervisor.snapshot().services]
    for name in query.service:
        if name not in known and name != "trapeze":
            raise UnknownName(f'there is no service named "{name}"', hint=f"services: {', '.join(known)}")
    names = query.service or [*known, "trapeze"]
    return Reply(200, lines=_log_lines(call.supervisor.journal, names, bool(query.service), query))


async def _log_lines(journal: Journal, names: Sequence[str], only: bool, query: LogsQuery) -> AsyncIterator[LogLine]:
    # No await between the two: no line is missed, none comes twice.
    subscription = journal.subscribe(names if only else None) if query.follow else None
    tails = [line for name in dict.fromkeys(names) for line in journal.tail([name], query.lines)]
    tails.sort(key=lambda line: line.at)
    try:
        for line in tails:
            yield line
        if subscription is not None:
            async for line in subscription:
                yield line
    finally:
        if subscription is not None:
            subscription.close()


# ---- writes


async def _reload(call: Call) -> Reply:
    since = call.supervisor.revision
    order = asyncio.ensure_future(call.supervisor.reload([call.name] if call.name else None, call.who))
    # A client that leaves does not take back its order halfway; what becomes of it is then in the log only.
    _orders.add(order)
    order.add_done_callback(_forget)
    return await settle(call, await asyncio.shield(order), since)


_orders: set[asyncio.Future[Ticket]] = set()


def _forget(order: asyncio.Future[Ticket]) -> None:
    _orders.discard(order)
    if not order.cancelled():
        order.exception()  # seen, whether or not somebody still waits for it


async def _rollback(call: Call) -> Reply:
    since = call.supervisor.revision
    return await settle(call, call.supervisor.rollback(call.name, call.who), since)


async def _restart(call: Call) -> Reply:
    since = call.supervisor.revision
    query: ProcessQuery = call.query
    return await settle(call, call.supervisor.restart([call.name], call.who, query.process), since)


async def _restart_all(call: Call) -> Reply:
    since = call.supervisor.revision
    return await settle(call, call.supervisor.restart(None, call.who), since)


async def _scale(call: Call) -> Reply:
    since = call.supervisor.revision
    query: ScaleQuery = call.query
    if (query.count is None) == (query.delta == 0):
        raise Refusal(400, "usage", "scale takes either count=N or delta=N")
    ticket = call.supervisor.scale(call.name, call.who, count=query.count, delta=query.delta)
    return await settle(call, ticket, since)


async def _start(call: Call) -> Reply:
    since = call.supervisor.revision
    return await settle(call, call.supervisor.start([call.name], call.who), since)


async def _stop(call: Call) -> Reply:
    since = call.supervisor.revision
    return await settle(call, call.supervisor.stop([call.name], call.who), since)


async def _signal(call: Call) -> Reply:
    since = call.supervisor.revision
    query: SignalQuery = call.query
    signum = _signal_number(query.signal)
    return await settle(call, call.supervisor.signal(call.name, signum, call.who, query.process), since)


async def _shutdown(call: Call) -> Reply:
    query: ShutdownQuery = call.query
    since = call.supervisor.revision
    call.supervisor.shutdown(call.who, fast=query.fast)
    answer = {"revision": call.supervisor.revision, "services": {}, "settled": False, "message": "stopping"}
    if query.wait is None:
        return Reply(202, answer)
    return Reply(200, lines=farewell(call.supervisor, answer, query, since))


async def _upgrade(call: Call) -> Reply:
    query: UpgradeQuery = call.query
    if query.python is not None and call.uid not in (0, os.geteuid()):
        # Whoever may order a reload may not for that reason run any program as the user that we are.
        raise Refusal(403, "forbidden", f"uid {call.uid} may not choose the program that takes our place")
    if call.supervisor.upgrade is None:
        raise Refusal(409, "busy", "no upgrade while everything starts")
    order = asyncio.ensure_future(call.supervisor.upgrade(call.who, query.python))
    order.add_done_callback(lambda done: done.cancelled() or done.exception())
    if query.wait is None:
        return Reply(202, {"revision": call.supervisor.revision, "message": "on its way, or refused: see the events"})
    if query.progress:
        return Reply(200, lines=_upgrade_lines(order, query.wait))
    return _upgraded(await _outcome(order, query.wait))


async def _outcome(order: asyncio.Future[Mapping[str, object]], wait: float) -> Mapping[str, object] | TrapezeError:
    try:
        async with asyncio.timeout(wait):
            return await asyncio.shield(order)
    except TrapezeError as error:
        return error
    except TimeoutError:
        return WaitTimeout(f"not done after {round(wait, 2):g} s", hint="it goes on all the same; see the events")


def _upgraded(outcome: Mapping[str, object] | TrapezeError) -> Reply:
    if not isinstance(outcome, TrapezeError):
        return Reply(200, outcome)
    status = 504 if isinstance(outcome, WaitTimeout) else 409
    output = getattr(outcome, "output", ())
    return error_body(status, outcome.code, outcome.message, hint=outcome.hint, output=output)


async def _upgrade_lines(order: asyncio.Future[Mapping[str, object]], wait: float) -> AsyncIterator[object]:
    reply = _upgraded(await _outcome(order, wait))
    yield {"answer": reply.value} if reply.status < 400 else {"error": reply.value, "status": reply.status}


def _signal_number(text: str) -> int:
    try:
        return parse_signal(text)
    except ValueError:
        raise Refusal(
            400, "usage", f'there is no signal "{text}"', hint="a name or a number, as USR1, SIGHUP, RTMIN+3, 10"
        ) from None


# ---- routing

ROUTES = (
    Route("GET", "/", NoQuery, _root, "this list"),
    Route("GET", "/status", NoQuery, _status, "every service, process and socket, at one revision"),
    Route("GET", "/metrics", NoQuery, _metrics, "numbers of services and sockets, as OpenMetrics text"),
    Route("GET", "/events", EventsQuery, _events, "transitions after a revision, one a line; follow=1 goes on"),
    Route("GET", "/logs", LogsQuery, _logs, "last lines of each service, one a line; follow=1 goes on"),
    Route("GET", "/config", NoQuery, _config, "the configuration that runs, and where each value came from"),
    Route("GET", "/settled", SettledQuery, _settled, "how far an order has come that was given before, by its ticket"),
    Route("POST", "/reload", WriteQuery, _reload, "read the configuration again, roll every web service"),
    Route("POST", "/restart", WriteQuery, _restart_all, "replace every process"),
    Route("POST", "/shutdown", ShutdownQuery, _shutdown, "stop everything, and the supervisor itself"),
    Route("POST", "/upgrade", UpgradeQuery, _upgrade, "put a new program in place of this one; everything goes on"),
    Route("POST", "/services/NAME/reload", WriteQuery, _reload, "roll one service to a new generation"),
    Route("POST", "/services/NAME/rollback", WriteQuery, _rollback, "go back to the generation that served before"),
    Route("POST", "/services/NAME/restart", ProcessQuery, _restart, "replace its processes, or one by its id"),
    Route("POST", "/services/NAME/scale", ScaleQuery, _scale, "run count=N processes, or delta=N more"),
    Route("POST", "/services/NAME/start", WriteQuery, _start, "enable it"),
    Route("POST", "/services/NAME/stop", WriteQuery, _stop, "disable it"),
    Route("POST", "/services/NAME/signal", SignalQuery, _signal, "send a signal to its processes, or to one"),
)


async def dispatch(supervisor: Supervisor, request: Request) -> Reply:
    """Find the route, read the query, run it.

    Raises:
        TrapezeError: for everything that `error_reply` can put in words.
    """
    target = urlsplit(request.target)
    parts = [unquote(part) for part in target.path.split("/")]
    candidates = [(route, name) for route in ROUTES if (name := _match(route.path, parts)) is not None]
    if not candidates:
        raise Refusal(404, "unknown", f"there is no {target.path} here", hint="GET / lists what there is")
    method = "GET" if request.method == "HEAD" else request.method
    for route, name in candidates:
        if route.method == method:
            who = f"uid {request.peer.uid} pid {request.peer.pid} (control)"
            return await route.run(Call(supervisor, _query(route, target.query), name, who, request.peer.uid))
    allowed = ", ".join("GET, HEAD" if route.method == "GET" else route.method for route, _ in candidates)
    raise Refusal(405, "usage", f"{target.path} takes {allowed}, not {method}", headers=(("allow", allowed),))


def _match(pattern: str, parts: Sequence[str]) -> str | None:
    """Return the service in the path ("" where the pattern has none); None if it does not match."""
    expected = pattern.split("/")
    if len(expected) != len(parts):
        return None
    name = ""
    for want, part in zip(expected, parts, strict=True):
        if want == "NAME" and part:
            name = part
        elif want != part:
            return None
    return name


def _query(route: Route, text: str) -> Struct:
    known = route.query.__struct_fields__
    values: dict[str, object] = {}
    for key, value in parse_qsl(text, keep_blank_values=True):
        if key not in known:
            hint = f"it takes {', '.join(known)}" if known else "it takes none"
            raise Refusal(400, "usage", f'{route.path}: unknown query parameter "{key}"', hint=hint)
        if key == "service":
            values.setdefault(key, [])
            found = values[key]
            assert isinstance(found, list)
            found.append(value)
        elif key in values:
            raise Refusal(400, "usage", f'{route.path}: query parameter "{key}" was given twice')
        else:
            values[key] = value.strip()  # the + of delta=+1 arrives as a space
    try:
        return msgspec.convert(values, route.query, strict=False)
    except msgspec.ValidationError as error:
        raise Refusal(400, "usage", f"{route.path}: {error}".replace("`$.", "`")) from None
