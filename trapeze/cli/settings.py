"""`check`, `config`, `schema`: what is configured, and what is wrong with it. Nothing is started or bound."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import click
import msgspec

from trapeze import config as configuration
from trapeze.checks import shared_with_apps, unused_sockets
from trapeze.cli.common import config_option, json_option, name_option, say
from trapeze.cli.run import config_path
from trapeze.config import Resolved
from trapeze.errors import ConfigError, Problem
from trapeze.slots import addresses_of

__all__ = ["check", "config", "schema"]


@click.command()
@config_option
@click.option("--import", "import_app", is_flag=True, help="Import the apps too, as their workers would.")
@json_option
def check(path: str | None, import_app: bool, as_json: bool) -> int:
    """Say everything that is wrong with the configuration.

    Exits with 2 if there is anything. Nothing is started, bound or changed.
    """
    problems: list[Problem] = []
    resolved: object = None
    try:
        resolved = configuration.load(config_path(path), environ=os.environ)
    except ConfigError as error:
        problems, resolved = list(error.problems), error.partial
    if isinstance(resolved, Resolved):
        problems += examine(resolved, problems, import_app=import_app)
    warnings, notes = _remarks(resolved) if isinstance(resolved, Resolved) else ([], [])
    if as_json:
        told = {"problems": problems, "warnings": warnings, "notes": notes}
        plain = {name: [each._asdict() for each in several] for name, several in told.items()}
        click.echo(msgspec.json.encode({"ok": not problems, **plain}))
        return 2 if problems else 0
    for doubtful, several in (("warning", warnings), ("note", notes)):
        for each in several:
            say(f"{doubtful}: {each}")
    if problems or not isinstance(resolved, Resolved):
        for problem in problems:
            click.echo(str(problem))
    else:
        click.echo(f"ok: {_counted(resolved)}")
    return 2 if problems else 0


_ASKED_BY = {"app", "backend", "cwd", "env", "env_file", "group", "python", "user", "venv"}
"""Fields that decide in which interpreter, and by whom, a backend is looked for."""


def examine(resolved: Resolved, known: list[Problem], *, import_app: bool) -> list[Problem]:
    """Ask the machine and, in their own interpreters, the backends; return what is wrong beside what is `known`.

    A service with a mistake in one line is asked about its other lines too: all problems are to show at once.
    """
    from trapeze import preflight, verify

    found: list[Problem] = []
    seen = {problem.path for problem in known}
    for part in _parts(resolved):
        # What is known to be wrong may stand in the way of asking.
        with contextlib.suppress(*((ValueError, KeyError, TypeError, ConfigError) if known else ())):
            found += [problem for problem in preflight.examine(part) if problem.path not in seen]
        seen.update(problem.path for problem in found)
    spoiled = {problem.path.split(".")[1] for problem in (*known, *found) if problem.path.startswith("services.")}
    clean = [name for name in resolved.config.services if name not in spoiled]
    problems = verify.end(verify.begin(resolved, clean, import_app=import_app)) if clean else []
    problems += _backends_of(resolved, spoiled, (*known, *found))
    origin = os.path.relpath(resolved.path) if resolved.path else ""
    return found + [problem if problem.origin else problem._replace(origin=origin) for problem in problems]


def _backends_of(resolved: Resolved, names: Collection[str], known: Sequence[Problem]) -> Iterator[Problem]:
    """Is there such a backend? All that can be asked about a service with mistakes elsewhere, and only if they do not
    stand in the way of asking."""
    from trapeze import verify

    for name in names:
        wrong = {problem.path.split(".")[2] for problem in known if problem.path.startswith(f"services.{name}.")}
        spec = resolved.config.services.get(name)
        if spec is None or spec.app is None or wrong & _ASKED_BY:
            continue
        with contextlib.suppress(ValueError, KeyError, TypeError, ConfigError):
            answer = verify.end(verify.begin(resolved, [name]))
            yield from (problem for problem in answer if problem.path == f"services.{name}.backend")


def _remarks(resolved: Resolved) -> tuple[list[Problem], list[Problem]]:
    """Warnings, and notes."""
    return list(_warnings(resolved)), list(_notes(resolved))


def _warnings(resolved: Resolved) -> Iterator[Problem]:
    """What is allowed and may still be a mistake."""
    hint = "have the command wait in poll() or select(), not in accept(), or give it a socket of its own"
    for path, reason in shared_with_apps(resolved.config):
        yield Problem(path, reason, hint, resolved.origins.get(path, ""))
    for path, reason in unused_sockets(resolved.config):
        hint = f'socket = "{path.split(".", 1)[1]}" in the section of a service'
        yield Problem(path, reason, hint, os.path.relpath(resolved.path) if resolved.path else "")


def _parts(resolved: Resolved) -> Iterator[Resolved]:
    """The sockets, then each service: so that one that cannot be asked about does not hide the others."""
    config = resolved.config
    yield resolved._replace(config=msgspec.structs.replace(config, services={}))
    for name, spec in config.services.items():
        yield resolved._replace(config=msgspec.structs.replace(config, services={name: spec}, sockets={}))


def _notes(resolved: Resolved) -> Iterator[Problem]:
    """What is right, and costs one of the promises."""
    from trapeze.tcpsockets import migrates

    names = [name for name, spec in resolved.config.sockets.items() if spec.reuses_port]
    lost = "what waits in that of a worker that is killed is lost: set the sysctl net.ipv4.tcp_migrate_req=1"
    after = "" if migrates() else f", and {lost}"
    for name in names:
        reason = f'listen = "reuseport": no shared_queue: each worker has a queue of its own{after}'
        yield Problem(f"sockets.{name}", reason)


def _counted(resolved: Resolved) -> str:
    kinds = [
        (sum(spec.app is not None for spec in resolved.config.services.values()), "web app"),
        (sum(spec.app is None for spec in resolved.config.services.values()), "command"),
        (sum(len(addresses_of(spec)) for spec in resolved.config.sockets.values()), "address"),
    ]
    return ", ".join(f"{number} {_plural(number, word)}" for number, word in kinds if number)


def _plural(number: int, word: str) -> str:
    return word if number == 1 else word + ("es" if word.endswith("s") else "s")


@click.command()
@config_option
@click.option("--running", is_flag=True, help="Of the instance that runs, instead of the file.")
@click.option("--defaults", is_flag=True, help="Show values that nobody set, too.")
@json_option
@name_option
def config(path: str | None, running: bool, defaults: bool, as_json: bool, name: str | None) -> int:
    """Show the resolved configuration, with the origin of each value.

    Values of env, and what sounds like a secret, are masked.
    """
    shown = _of_instance(name) if running else _of_file(path, name)
    if as_json:
        click.echo(msgspec.json.encode(shown))
        return 0
    origins = shown["origins"]
    lines = [(f"{key} = {value}", origins.get(key, "default")) for key, value in _leaves(shown["config"])]
    lines = [line for line in lines if defaults or line[1] != "default"]
    width = min(60, max((len(line[0]) for line in lines), default=0))
    for text, origin in lines:
        click.echo(f"{text.ljust(width)}  # {origin}")
    return 0


def _of_file(path: str | None, name: str | None) -> dict[str, Any]:
    overlay = {} if name is None else {"name": name}
    resolved = configuration.load(
        config_path(path), overlay=overlay, overlay_origins=dict.fromkeys(overlay, "flag --name"), environ=os.environ
    )
    return {"config": configuration.masked(resolved), "origins": dict(resolved.origins)}


def _of_instance(name: str | None) -> dict[str, Any]:
    from trapeze.client import Client, find

    found: dict[str, Any] = msgspec.json.decode(Client(find(name)).get("/config"))
    return found


def _leaves(tree: dict[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """Every value with its dotted path, as TOML would have it."""
    for key, value in tree.items():
        here = f"{path}.{key}" if path else key
        if isinstance(value, dict) and value:
            yield from _leaves(value, here)
        else:
            yield here, _toml(value)


def _toml(value: object) -> str:
    """A value in TOML; None, which TOML does not have, as (unset)."""
    match value:
        case None:
            return "(unset)"
        case dict():
            return "{" + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(_toml, value)) + "]"
    return msgspec.json.encode(value).decode()


@click.command()
def schema() -> int:
    """Print the JSON Schema of trapeze.toml."""
    click.echo(msgspec.json.format(msgspec.json.encode(configuration.schema()), indent=2))
    return 0
