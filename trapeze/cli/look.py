"""Reads: `ls`, `status`, `logs`, `events`, `metrics`. They never change anything."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any

import click
import msgspec

from trapeze import render
from trapeze.cli.common import json_option, name_option, say, service_argument
from trapeze.client import Client, find, is_gone
from trapeze.errors import TrapezeError, UnknownName
from trapeze.runtime import directories, list_instances
from trapeze.status import Snapshot, Transition

__all__ = ["events", "logs", "ls", "metrics", "status"]

_AGAIN = 1000
"""Lines of each service that are asked for after an upgrade: what may have come while it was under way."""


@click.command()
@json_option
def ls(as_json: bool) -> int:
    """List the instances on this machine.

    Root also sees those of other users.
    """
    found = list_instances(everyone=True)
    if as_json:
        click.echo(msgspec.json.encode([each._asdict() for each in found]))
    elif found:
        click.echo(render.instances(found))
    else:
        looked = ", ".join(f"{place.path} ({place.why})" for place in directories())
        say(f"no instance is running; looked in {looked}")
    return 0


@click.command()
@service_argument
@click.option("--watch", is_flag=True, help="Show every change, until ^C.")
@json_option
@name_option
def status(services: tuple[str, ...], watch: bool, as_json: bool, name: str | None) -> int:
    """Show what runs, since when, and why it is as it is."""
    client = Client(find(name))
    if watch:
        return _watch(client, services, as_json)
    if as_json:
        click.echo(_selected(client.status_json(), services))
        return 0
    snapshot = client.status()
    _check_names(snapshot, services)
    render.show_status(snapshot, services)
    return 0


def _selected(data: bytes, services: tuple[str, ...]) -> bytes:
    """The snapshot as it came; with names, only these services."""
    if not services:
        return data
    _check_names(msgspec.json.decode(data, type=Snapshot), services)
    tree = msgspec.json.decode(data)
    tree["services"] = [service for service in tree["services"] if service["name"] in services]
    return msgspec.json.encode(tree)


def _check_names(snapshot: Snapshot, services: tuple[str, ...]) -> None:
    known = [service.name for service in snapshot.services]
    for service in services:
        if service not in known:
            raise UnknownName(f'there is no service named "{service}"', hint=f"services: {', '.join(known)}")


def _watch(client: Client, services: tuple[str, ...], as_json: bool) -> int:
    def snapshots() -> Iterator[Snapshot]:
        yield (snapshot := client.status())
        # The events are the alarm clock; what is shown is always a whole snapshot, taken after them.
        since = {"since": snapshot.revision}
        for line in client.follow("/events", since, lambda: {"since": snapshot.revision}):
            if msgspec.json.decode(line, type=Transition).revision > snapshot.revision:
                yield (snapshot := client.status())

    try:
        if as_json:
            for snapshot in snapshots():
                click.echo(msgspec.json.encode(snapshot))
        elif sys.stdout.isatty():
            render.live(snapshots(), services)
        else:
            for snapshot in snapshots():
                click.echo(render.status_text(snapshot, time.time(), services) + "\n")
    except TrapezeError as error:
        if not is_gone(error):  # it stopped while we watched
            raise
    say("the supervisor stopped")
    return 0


@click.command()
@service_argument
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until ^C.")
@click.option("-n", "--lines", type=click.IntRange(0), default=100, show_default=True, help="Last lines per service.")
@json_option
@name_option
def logs(services: tuple[str, ...], follow: bool, lines: int, as_json: bool, name: str | None) -> int:
    """Show what processes print."""
    query = {"service": list(services), "lines": lines}
    printer = render.LogPrinter(sys.stdout, services)
    client = Client(find(name))
    for line in _followed_logs(client, query) if follow else client.lines("/logs", query):
        if as_json:
            click.echo(line)
        else:
            printer.write(msgspec.json.decode(line))
    return 0


def _followed_logs(client: Client, query: dict[str, Any]) -> Iterator[bytes]:
    """The lines, each once: after an upgrade in place the last ones are sent again, with those we have missed."""
    newest = 0.0
    fresh = True

    def again() -> dict[str, Any]:
        nonlocal fresh
        fresh = False
        return {**query, "lines": _AGAIN}

    for line in client.follow("/logs", query, again):
        at = msgspec.json.decode(line, type=_At).at
        if fresh or at > newest:
            newest = max(newest, at)
            yield line


class _At(msgspec.Struct):
    at: float


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until ^C.")
@click.option("--since", type=click.IntRange(0), default=0, metavar="REVISION", help="Only what came after it.")
@json_option
@name_option
def events(follow: bool, since: int, as_json: bool, name: str | None) -> int:
    """Show every change of state, and why."""
    client = Client(find(name))
    seen = since
    lines = (
        client.follow("/events", {"since": since}, lambda: {"since": seen})
        if follow
        else client.lines("/events", {"since": since})
    )
    for line in lines:
        change = msgspec.json.decode(line, type=Transition)
        seen = change.revision
        click.echo(line if as_json else render.transition(change))
    return 0


@click.command()
@name_option
def metrics(name: str | None) -> int:
    """Print numbers for Prometheus and its kin.

    In the text format of OpenMetrics: what is wanted and what runs, restarts, memory, listen queues, and how long
    requests had waited for a worker.
    """
    click.echo(Client(find(name)).get("/metrics"))
    return 0
