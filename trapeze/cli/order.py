"""Writes: each calls one verb of the supervisor and, unless told otherwise, waits until it is done or has failed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import click
import msgspec

from trapeze import render
from trapeze.cli.common import json_option, name_option, one_service_argument, say, service_argument
from trapeze.client import Client, RemoteError, find, service_path
from trapeze.errors import TrapezeError
from trapeze.status import Transition

__all__ = ["reload", "restart", "rollback", "scale", "shutdown", "signal", "start", "stop"]

WAIT = 120.0
"""Seconds, unless --wait says otherwise."""

_F = TypeVar("_F", bound=Callable[..., Any])


def order_options(function: _F) -> _F:
    """Add --wait, --no-wait, --json and --name."""
    wait = click.option(
        "--wait", type=click.FloatRange(0, 86_400), default=WAIT, show_default=True, metavar="SECONDS",
        help="Wait so long until it is done.",
    )  # fmt: skip
    no_wait = click.option("--no-wait", is_flag=True, help="Do not wait.")
    process_quiet = click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")
    return wait(no_wait(process_quiet(json_option(name_option(function)))))


def process_option(function: _F) -> _F:
    """Add --process."""
    return click.option(
        "--process", type=click.IntRange(0), metavar="ID", help="Only this one; `status` shows it as #ID."
    )(function)


@click.command()
@service_argument
@order_options
def reload(services: tuple[str, ...], **how: Any) -> int:
    """Roll to new code, losing nothing.

    Without names: the configuration is read again, every web service gets a new generation, and of the others those
    whose section changed.
    """
    return _give(services or ("",), "reload", {}, **how)


@click.command()
@service_argument
@process_option
@order_options
def restart(services: tuple[str, ...], process: int | None, **how: Any) -> int:
    """Replace processes by new ones of the same generation."""
    if process is not None and len(services) != 1:
        raise click.UsageError("--process goes with the one service it is of", ctx=click.get_current_context())
    return _give(services or ("",), "restart", _given(process=process), **how)


@click.command()
@one_service_argument
@order_options
def rollback(service: str, **how: Any) -> int:
    """Go back to the code that served before.

    It is still in memory (preload), so nothing is read from the disk. Once more goes forward again.
    """
    return _give((service,), "rollback", {}, **how)


@click.command(context_settings={"ignore_unknown_options": True})
@one_service_argument
@click.argument("count", metavar="N|+N|-N")
@order_options
def scale(service: str, count: str, **how: Any) -> int:
    """Run N processes, or so many more or fewer."""
    if not count.lstrip("+-").isdecimal() or not count.isascii() or len(count) - len(count.lstrip("+-")) > 1:
        raise click.BadParameter(f"{count!r} is not a number; write 4, +1 or -1", param_hint="N")
    query: dict[str, object] = {"delta" if count[0] in "+-" else "count": int(count)}
    return _give((service,), "scale", query, **how)


@click.command()
@service_argument
@order_options
def start(services: tuple[str, ...], **how: Any) -> int:
    """Start services that are not enabled or were stopped."""
    return _give(_some(services), "start", {}, **how)


@click.command()
@service_argument
@order_options
def stop(services: tuple[str, ...], **how: Any) -> int:
    """Stop services; `shutdown` stops everything and the supervisor."""
    return _give(_some(services), "stop", {}, together=True, **how)


@click.command()
@one_service_argument
@click.argument("signal_name", metavar="SIGNAL")
@process_option
@order_options
def signal(service: str, signal_name: str, process: int | None, **how: Any) -> int:
    """Send a signal to the processes of a service: USR1, HUP, 10."""
    return _give((service,), "signal", _given(process=process, signal=signal_name), **how)


@click.command()
@click.option("--fast", is_flag=True, help="Do not wait for requests that are in flight.")
@order_options
def shutdown(fast: bool, wait: float, no_wait: bool, quiet: bool, as_json: bool, name: str | None) -> int:
    """Stop every service, and the supervisor itself."""
    begun = time.monotonic()
    client = Client(find(name))
    answer = client.shutdown(wait=None if no_wait else wait, fast=fast, watch=_Progress(quiet))
    _done(client, answer, begun, as_json)
    return 0


def _give(
    services: Sequence[str],
    verb: str,
    query: dict[str, object],
    *,
    together: bool = False,
    wait: float,
    no_wait: bool,
    quiet: bool,
    as_json: bool,
    name: str | None,
) -> int:
    """Give the order for one service after the other, and the first failure ends it; or for all of them at once."""
    client = Client(find(name))
    begun = time.monotonic()
    watch = _Progress(quiet)
    spent = 0.0

    def give(service: str) -> dict[str, Any]:
        left = None if no_wait else max(0.0, wait - spent)
        try:
            return client.write(service_path(service, verb), query, wait=left, watch=watch)
        except TrapezeError as error:
            watch.trim(error)
            raise

    for answer in _together(give, services) if together else map(give, services):
        _done(client, answer, begun, as_json)
        spent = time.monotonic() - begun
    return 0


def _together(give: Callable[[str], dict[str, Any]], services: Sequence[str]) -> Iterator[dict[str, Any]]:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(len(services)) as pool:
        yield from pool.map(give, services)


def _done(client: Client, answer: dict[str, Any], begun: float, as_json: bool) -> None:
    if as_json:
        click.echo(msgspec.json.encode(answer))
        return
    generations = ", ".join(
        f"{service}: generation {each['generation']}" for service, each in answer.get("services", {}).items()
    )
    message = answer.get("message") or generations or client.instance.name
    took = f" ({time.monotonic() - begun:.1f} s)" if answer.get("settled") else ", not waited for"
    click.echo(f"{message}{took}")


class _Progress:
    """Tells on stderr what happens meanwhile; the same traceback is shown once."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._shown: set[tuple[str, ...]] = set()

    def __call__(self, change: Transition) -> None:
        if self._quiet:
            return
        if tuple(change.output) in self._shown:
            change = msgspec.structs.replace(change, output=[])
        self._shown.add(tuple(change.output))
        say(render.transition(change))

    def trim(self, error: TrapezeError) -> None:
        """Take from an error the output that was shown already."""
        if isinstance(error, RemoteError) and tuple(error.output) in self._shown:
            error.output = []


def _given(**values: object) -> dict[str, object]:
    return {key: value for key, value in values.items() if value is not None}


def _some(services: tuple[str, ...]) -> tuple[str, ...]:
    if not services:
        raise click.UsageError("Missing argument 'SERVICE'", ctx=click.get_current_context())
    return services
