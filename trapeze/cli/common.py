"""What several verbs share: options, and how errors are shown. Imports nothing that `serve` does not need."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import click
import msgspec

from trapeze.errors import ConfigError, StartFailed, TrapezeError

__all__ = ["config_option", "explain", "instance", "json_option", "name_option", "say_error"]

_F = TypeVar("_F", bound=Callable[..., Any])


def instance(text: str) -> str:
    """What --name takes. A variable of a script that is not set would otherwise mean another instance, or all."""
    if not text:
        raise click.BadParameter("it is empty")
    return text


def _set_name(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """`trapeze --name X verb` and `trapeze verb --name X` mean the same; the nearer one wins."""
    inherited: str | None = ctx.find_root().obj
    return inherited if value is None else value


def name_option(function: _F) -> _F:
    """Add --name."""
    return click.option("--name", metavar="NAME", type=instance, callback=_set_name, help="Which instance.")(function)


def json_option(function: _F) -> _F:
    """Add --json. With it an error is data as well, on stdout; the exit code is the same."""

    @functools.wraps(function)
    def answered(*args: Any, **how: Any) -> Any:
        try:
            return function(*args, **how)
        except TrapezeError as error:
            if not how["as_json"]:
                raise
            click.echo(msgspec.json.encode(_body(error)))
            return error.exit_code

    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(cast(_F, answered))


def _body(error: TrapezeError) -> dict[str, object]:
    """What the supervisor has answered, or would have."""
    answered: dict[str, object] | None = getattr(error, "body", None)
    if answered is not None:
        return answered
    problems = [problem._asdict() for problem in getattr(error, "problems", ())]
    return {"code": error.code, "message": error.message, "hint": error.hint, "problems": problems}


def config_option(function: _F) -> _F:
    """Add -c/--config."""
    return click.option(
        "-c", "--config", "path", metavar="FILE", envvar="TRAPEZE_CONFIG", show_envvar=True,
        help="Configuration file; default: trapeze.toml in the current directory.",
    )(function)  # fmt: skip


def say(text: str) -> None:
    """Talk: a line on stderr."""
    click.echo(text, err=True)


def say_error(error: TrapezeError) -> int:
    """Print an error and its hint on stderr; return the exit code."""
    if isinstance(error, ConfigError):
        for problem in error.problems:
            say(f"error: {problem}")
        return error.exit_code
    output = getattr(error, "output", "")
    lines = output.splitlines() if isinstance(error, StartFailed) else list(output)
    for line in lines:
        say(line)
    problems = getattr(error, "problems", ())
    for problem in problems:
        say(f"error: {problem}")
    if not problems:
        say(f"error: {error.message}")
    if error.hint:
        say(f"hint: {error.hint}")
    return error.exit_code


def explain(error: click.ClickException) -> int:
    """Print a usage error our way; return the exit code."""
    message = error.format_message().strip().removesuffix(".")
    first, _, rest = message.partition(". ")
    suggestion = rest.strip(" ()")  # click: No such command 'statsu'. (Did you mean one of: 'start', 'status'?)
    say(f"error: {first[:1].lower()}{first[1:]}" + (f", {suggestion[:1].lower()}{suggestion[1:]}" if rest else ""))
    context = getattr(error, "ctx", None)
    if isinstance(error, click.UsageError) and context is not None:
        say(f"hint: `{context.command_path} --help` shows what there is")
    return 2 if isinstance(error, click.UsageError) else error.exit_code


def _complete_service(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Names of services of the instance that runs; nothing when there is none."""
    from trapeze.client import find, services

    try:
        return [name for name in services(find(ctx.find_root().params.get("name"))) if name.startswith(incomplete)]
    except TrapezeError:
        return []


def service_argument(function: _F) -> _F:
    """Add [SERVICE]..."""
    return click.argument("services", nargs=-1, metavar="[SERVICE]...", shell_complete=_complete_service)(function)


def one_service_argument(function: _F) -> _F:
    """Add SERVICE."""
    return click.argument("service", metavar="SERVICE", shell_complete=_complete_service)(function)
