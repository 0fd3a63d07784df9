"""`backends`: which servers an environment has, which versions, what each can do, and whether that is true."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import click
import msgspec

from trapeze.cli.common import json_option, say
from trapeze.cli.servers import Environment, Found, environment, look
from trapeze.errors import TrapezeError, UnknownName
from trapeze.render import aligned

__all__ = ["backends"]

WORDS = {"wsgi": "WSGI", "asgi": "ASGI", "websocket": "WebSocket", "http2": "HTTP/2"}
HOW = {"native": "native", "trapeze": "by trapeze", "no": "no"}


@click.command()
@click.argument("name", required=False)
@click.option("--venv", metavar="DIR", help="Look in this virtual environment; default: the one trapeze runs in.")
@click.option("--python", metavar="PATH", help="Look where this interpreter looks, instead.")
@click.option("--test", is_flag=True, help="Run the conformance checks against backend NAME.")
@click.option("--interface", metavar="WHAT", help="With --test: wsgi or asgi; default: all that it serves.")
@click.option("--option", "options", multiple=True, metavar="KEY=VALUE", help="With --test: an option of the server.")
@json_option
def backends(
    name: str | None, venv: str | None, python: str | None, test: bool, interface: str | None,
    options: tuple[str, ...], as_json: bool,
) -> int:  # fmt: skip
    """Show which servers are installed.

    And what each can do; with NAME, everything about one. With --test its promises are tried: requests and bodies, what
    the app is told, trust in proxies, smuggled requests, starting, watching, leaving.
    """
    if venv is not None and python is not None:
        raise click.UsageError("--python goes without --venv, which has a Python of its own")
    where = environment(venv, python)
    if test:
        if name is None:
            raise click.UsageError("--test needs the NAME of a backend")
        return _test(where, name, interface, options, as_json)
    found = look(where, name)
    if as_json:
        click.echo(msgspec.json.encode([each._asdict() for each in found]))
        return 0
    if name is not None:
        return _show_one(found[0])
    say(f"in {where.prefix}:")
    click.echo(aligned(_rows(found)))
    say("every field that is not named here is met by trapeze, the same for all; `trapeze backends NAME` shows one")
    return 0


def _rows(found: Sequence[Found]) -> Iterator[Sequence[str]]:
    yield ("NAME", "INSTALLED", "VERSION", "SERVES", "NATIVE", "NO", "LACKS", "NOTES")
    for each in found:
        yield (
            each.name,
            "yes" if each.installed else "no",
            each.version or "-",
            ", ".join(_served(each)),
            ", ".join(field for field, how in each.fields.items() if how == "native") or "-",
            ", ".join(field for field, how in each.fields.items() if how == "no") or "-",
            str(len(each.lacks)) if each.lacks else "-",
            "; ".join(note.removeprefix(f"{each.name} is not installed in {each.venv}, ") for note in each.notes),
        )


def _served(each: Found) -> list[str]:
    return [WORDS.get(word, word) for word in (*each.interfaces, *each.speaks)]


def _show_one(each: Found) -> int:
    """Everything about one backend."""
    if not each.fields:
        raise UnknownName(each.notes[0] if each.notes else f"{each.name} says nothing of itself")
    version = f" {each.version}" if each.version else ""
    click.echo(f"{each.name}{version} in {each.venv}: serves {', '.join(_served(each))}")
    for note in each.notes:
        click.echo(f"note: {note}")
    click.echo("")
    click.echo(aligned((field, HOW[how], each.why.get(field, "")) for field, how in each.fields.items()))
    if each.lacks:
        click.echo("\npromises that it cannot keep:")
        click.echo(aligned((promise, why) for promise, why in each.lacks.items()))
    return 0


def _test(where: Environment, name: str, interface: str | None, options: tuple[str, ...], as_json: bool) -> int:
    """Run the conformance suite; 1 if a promise is broken that the backend does not say it lacks."""
    from trapeze.cli.run import parse_options
    from trapeze.conformance.stage import Subject
    from trapeze.conformance.suite import judge, run

    known = look(where, name)[0]
    if not known.installed:
        raise TrapezeError(f"{name} cannot be tested: {'; '.join(known.notes) or 'it is not installed'}")
    chosen = [interface] if interface else [each for each in known.interfaces if each in ("wsgi", "asgi")]
    if not chosen or not set(chosen) <= set(known.interfaces):
        raise TrapezeError(f"{name} serves {' and '.join(known.interfaces)}, and the checks are of wsgi and asgi")
    results, failed = [], 0
    for each in chosen:
        for result in run(Subject(name, each, where.python, parse_options(options), known.speaks, known.lacks)):
            verdict = judge(result, known.lacks)
            failed += verdict == "FAILED"
            results.append({"interface": each, **result._asdict(), "verdict": verdict})
            if not as_json:
                click.echo(_line(each, result.name, verdict, result.why, result.promise))
    if as_json:
        click.echo(msgspec.json.encode(results))
    else:
        say(f"{len(results)} checks, {failed} failed")
    return 1 if failed else 0


def _line(interface: str, check: str, verdict: str, why: str, promise: str) -> str:
    more = f": {why}" if verdict == "FAILED" else f" ({promise})" if verdict == "lacks" else ""
    return f"{verdict:<7} {interface}  {check}{more}"
