"""`bench`: which server is fastest for an app, and what the supervisor costs; trapeze_bench does the measuring."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from trapeze.cli.servers import environment, look
from trapeze.errors import TrapezeError
from trapeze.examine_backend import finish_check, start_check

if TYPE_CHECKING:
    from trapeze_bench.apps import App
    from trapeze_bench.entrants import Backend
    from trapeze_bench.requestlist import Asked
    from trapeze_bench.served import Served

__all__ = ["bench"]

_EXAMPLES = """\b
Examples:
  trapeze bench shop.wsgi --workers 4
  trapeze bench shop.main:app --path /api/items --connections 1,32 --native --html report.html
  trapeze bench shop:app --backends gunicorn-gthread,granian --rounds 8
  trapeze bench --app django --native
  trapeze bench --scenario reload
"""
_WITH_AN_APP = (
    "paths", "requests_file", "connections", "rounds", "through", "native", "threads", "interface", "factory", "app_dir"
)  # fmt: skip
"""Flags that say something of an app: scenarios bring their own, and serve it as they do."""
_QUICK_SECONDS = 1
_LEAST_ROUNDS = 3


class CannotMeasure(TrapezeError):
    """As `Unusable` of trapeze_bench says it."""

    def __init__(self, message: str, *, hint: str = "", exit_code: int = 2, output: Sequence[str] = ()) -> None:
        super().__init__(message, hint=hint)
        self.exit_code = exit_code
        self.output = output


def _numbers(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, ...]:
    """1,16,64"""
    try:
        found = tuple(dict.fromkeys(int(word) for word in value.split(",")))
    except ValueError:
        raise click.BadParameter(f"{value!r} is no list of numbers, such as 1,16,64") from None
    if not all(1 <= number <= 10_000 for number in found):
        raise click.BadParameter(f"{value!r}: from 1 to 10000 connections")
    return found


def _names(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    """a,b"""
    found = None if value is None else tuple(filter(None, (word.strip() for word in value.split(","))))
    if found == ():
        raise click.BadParameter("it names none")
    return found


@click.command(epilog=_EXAMPLES)
@click.argument("app", required=False)
@click.option(
    "--app", "shipped", metavar="NAME",
    help="An app that comes with the bench, in place of APP, and what to ask it: django, fastapi...; list shows them.",
)  # fmt: skip
@click.option(
    "-w", "--workers", type=click.IntRange(1, 1000), default=2, show_default=True, metavar="N", help="Worker processes."
)
@click.option(
    "--backends", callback=_names, metavar="A,B",
    help="Only these, beside the reference; gunicorn-sync names one of its worker classes; default: all that can.",
)  # fmt: skip
@click.option("--native", is_flag=True, help="Each server by itself, too: what does trapeze cost?")
@click.option("--path", "paths", multiple=True, metavar="/X", help="What to ask for; may be repeated; default /.")
@click.option("--requests-file", metavar="FILE", help="One a line: PATH, or METHOD PATH [BODY], or ... @FILE.")
@click.option(
    "--connections", callback=_numbers, default="1,16,64", metavar="N,N",
    help="Of the closed loops, one after the other; default 1,16,64.",
)  # fmt: skip
@click.option("--seconds", type=click.IntRange(1, 3600), metavar="S", help="Of each load; default 3.")
@click.option("--rounds", type=click.IntRange(1, 1000), metavar="R", help="At least 3, which is the default.")
@click.option(
    "--rate", type=click.FloatRange(1, 100_000), metavar="N",
    help="Requests per second of the open loop; default: half of what the reference drives, at most 1000.",
)  # fmt: skip
@click.option("--through", type=click.Choice(["nginx"]), help="The load comes through it, for all.")
@click.option("--quick", is_flag=True, help="One short round, to see that it works: numbers of no worth.")
@click.option("--scenario", "scenarios", multiple=True, metavar="NAME", help="reload, boot...; may be repeated.")
@click.option("--json", "json_file", metavar="FILE", help="All that was measured, as JSON; - for stdout.")
@click.option("--html", "html_file", metavar="FILE", help="The report as one page.")
@click.option("--app-dir", metavar="DIR", help="Import the app from here; default: the current directory.")
@click.option("--factory", is_flag=True, help="APP is a function that makes the app.")
@click.option("--threads", type=click.IntRange(1), metavar="N", help="Threads per worker, of servers that have some.")
@click.option(
    "--interface",
    type=click.Choice(["auto", "wsgi", "asgi", "aiohttp", "tornado"]),
    default="auto",
    help="What APP speaks; default: look at it.",
)
def bench(app: str | None, shipped: str | None, paths: tuple[str, ...], requests_file: str | None, **flags: Any) -> int:
    """Measure which server is fastest for an app.

    All installed backends take part under trapeze, and plain gunicorn as the reference; with --native each server by
    itself, too. Contestants take turns, each started afresh, for some rounds; a difference that may be chance is
    printed as "same". With --scenario: what happens to requests in a reload, a crash... under trapeze and others.
    """
    if app is None and shipped is None:
        _without_app(click.get_current_context())
    seconds, rounds = _extent(flags["seconds"], flags["rounds"], quick=flags["quick"])
    try:
        from trapeze_bench.apps import described
        from trapeze_bench.bench import Order, run
        from trapeze_bench.entrants import Unusable
        from trapeze_bench.requestlist import ROOT
    except ModuleNotFoundError as error:
        raise TrapezeError(f"the bench needs {error.name}", hint="is trapeze-server installed as a whole?") from None
    if shipped == "list":
        click.echo("\n".join(described()))
        return 0
    asked = _asked(paths, requests_file)
    if shipped is not None:
        found = _shipped(shipped, app, flags)
        app, asked = found.app, asked or found.requests
    served = None if app is None else _served(app, flags)
    order = Order(
        served,
        _backends() if served else (),
        flags["backends"],
        flags["native"],
        asked or [ROOT],
        flags["connections"],
        seconds,
        rounds,
        flags["rate"],
        flags["through"] or "",
        flags["scenarios"],
        flags["seconds"],
        flags["workers"],
        flags["quick"],
        flags["json_file"],
        flags["html_file"],
    )
    try:
        return run(order)
    except Unusable as error:
        raise CannotMeasure(error.message, hint=error.hint, exit_code=error.exit_code) from None


def _without_app(ctx: click.Context) -> None:
    """Then there are scenarios, and no flag that they would pass over."""
    if not ctx.params["scenarios"]:
        raise click.UsageError("which app? Missing argument APP, or --app NAME, or --scenario NAME")
    for param in ctx.command.params:
        given = ctx.get_parameter_source(param.name or "") is ParameterSource.COMMANDLINE
        if given and param.name in _WITH_AN_APP:
            raise click.UsageError(f"{param.opts[0]} is for an app: with --scenario alone there is none")


def _extent(seconds: int | None, rounds: int | None, *, quick: bool) -> tuple[int, int]:
    """Seconds and rounds."""
    if quick:
        return seconds or _QUICK_SECONDS, rounds or 1
    if rounds is not None and rounds < _LEAST_ROUNDS:
        raise click.UsageError(
            f"--rounds {rounds}: fewer than {_LEAST_ROUNDS} cannot be told from chance; --quick is for trying it out"
        )
    return seconds or 3, rounds or _LEAST_ROUNDS


def _shipped(name: str, app: str | None, flags: dict[str, Any]) -> App:
    """One of those that come with the bench."""
    from trapeze_bench.apps import APPS, described

    if app is not None:
        raise click.UsageError(f"--app {name} and {app}: one app at a time")
    given = {"--app-dir": flags["app_dir"], "--factory": flags["factory"]}
    given["--interface"] = flags["interface"] != "auto"
    for flag in (flag for flag, value in given.items() if value):
        raise click.UsageError(f"{flag} says how to find an app of yours: not with --app")
    found = APPS.get(name)
    if found is None:
        raise CannotMeasure(f"there is no app {name!r} in the bench; there are those above", output=described())
    if found.missing:
        raise CannotMeasure(f"--app {name}: not installed", hint=f"pip install {' '.join(found.missing)}")
    return found


def _asked(paths: Sequence[str], requests_file: str | None) -> Sequence[Asked]:
    """What the flags say; empty if they say nothing."""
    from trapeze_bench.requestlist import BadRequests, read, request

    def content(name: str) -> bytes:
        raise BadRequests("a body has its place in a file: --requests-file")

    found: list[Asked] = []
    for path in paths:
        try:
            if not path.startswith("/"):
                raise BadRequests(f"a path begins with /: {path!r}")
            found.append(request(path, content))
        except BadRequests as error:
            raise click.BadParameter(str(error), param_hint="--path") from None
    if requests_file is not None:
        try:
            found += read(Path(requests_file))
        except BadRequests as error:
            raise CannotMeasure(str(error)) from None
    return found


def _served(app: str, flags: dict[str, Any]) -> Served:
    """What the app is, by looking at it as a worker would: imported, in a process of its own."""
    from trapeze_bench.served import Served

    directory = os.path.abspath(flags["app_dir"] or ".")
    if not os.path.isdir(directory):
        raise CannotMeasure(f"--app-dir {flags['app_dir']}: there is no such directory")
    name, factory = app, flags["factory"]
    if name.endswith("()"):
        name, factory = name.removesuffix("()"), True
    elif name.endswith(")"):
        raise CannotMeasure(f"{app}: not every server can pass arguments to a factory", hint="name one without any")
    names = [name] if ":" in name else [f"{name}:app", f"{name}:application"]
    answers = {each: _check(each, directory, factory, flags["interface"]) for each in names}
    good = next((each for each, answer in answers.items() if not answer["problems"]), None)
    if good is None:
        problem = _check(name, directory, factory, flags["interface"])["problems"][0]
        raise CannotMeasure(f"{app}: {problem['reason']}", hint=problem.get("hint", ""), exit_code=1)
    factory = factory or bool(answers[good]["is_factory"])
    return Served(good, answers[good]["interface"], flags["workers"], flags["threads"], Path(directory), factory)


def _check(app: str, directory: str, factory: bool, interface: str) -> dict[str, Any]:
    import sys

    job = {"app": app, "app_dir": directory, "factory": factory, "interface": interface, "import_app": True}
    return finish_check(start_check(sys.executable, job, cwd=directory))


def _backends() -> list[Backend]:
    from trapeze_bench.entrants import Backend

    return [
        Backend(
            each.name, each.version, each.interfaces, each.fields.get("threads") != "no", each.notes, each.installed
        )
        for each in look(environment(None))
    ]
