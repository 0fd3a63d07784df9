"""`backends`: which servers an environment has, which versions, and what each can do."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any, NamedTuple

import click
import msgspec

from trapeze.cli.common import json_option, say
from trapeze.errors import TrapezeError
from trapeze.examine_backend import finish_check, start_check
from trapeze.prelude import worker_package
from trapeze.render import aligned

__all__ = ["backends"]

# Entry points first: what lies beside our own worker package is none of that environment's.
_LIST = """\
import sys
sys.path[:] = [entry for entry in sys.path if entry]
from importlib.metadata import entry_points
names = [point.name for point in entry_points(group="trapeze.backends")]
sys.path.append(sys.argv[1])
from trapeze_backends.registry import BUILT_IN
print("\\n".join(dict.fromkeys([*BUILT_IN, *names])))
"""

INTERFACES = ("wsgi", "asgi", "aiohttp", "tornado")


class Found(NamedTuple):
    """One backend in one environment."""

    name: str
    installed: bool
    version: str
    interfaces: list[str]
    python: str
    venv: str
    notes: list[str]


@click.command()
@click.option("--venv", metavar="DIR", help="Look in this virtual environment; default: the one trapeze runs in.")
@json_option
def backends(venv: str | None, as_json: bool) -> int:
    """Show which servers are installed, and what each can do.

    Each is asked in an interpreter of its own.
    """
    found = look(venv)
    if as_json:
        click.echo(msgspec.json.encode([each._asdict() for each in found]))
        return 0
    say(f"in {found[0].venv}:")
    rows = [("NAME", "INSTALLED", "VERSION", "INTERFACES", "PYTHON", "NOTES")]
    for each in found:
        installed = "yes" if each.installed else "no"
        served = ", ".join(name.upper() if name in ("wsgi", "asgi") else name for name in each.interfaces)
        rows.append((each.name, installed, each.version or "-", served, each.python, "; ".join(each.notes)))
    click.echo(aligned(rows))
    return 0


def look(venv: str | None) -> list[Found]:
    """Ask every backend that the environment knows, for each interface, all at the same time.

    Raises:
        TrapezeError: there is no Python in that environment.
    """
    python = sys.executable if venv is None else os.path.join(os.path.abspath(venv), "bin", "python")
    prefix = sys.prefix if venv is None else os.path.abspath(venv)
    if not os.access(python, os.X_OK):
        raise TrapezeError(f"{prefix} is no virtual environment: there is no {python}")
    checks = {
        name: [start_check(python, {"backend": name, "interface": interface}) for interface in INTERFACES]
        for name in _names(python)
    }
    return [_judge(name, prefix, [finish_check(check) for check in running]) for name, running in checks.items()]


def _names(python: str) -> list[str]:
    listed = subprocess.run([python, "-c", _LIST, worker_package()], capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        words = listed.stderr.strip().splitlines()
        raise TrapezeError(f"{python} cannot list its backends: {words[-1] if words else 'it said nothing'}")
    return listed.stdout.split()


def _judge(name: str, prefix: str, answers: list[dict[str, Any]]) -> Found:
    """Put the answers for the interfaces together: one that is refused is not among those it serves."""
    interfaces = []
    notes: list[str] = []
    for interface, answer in zip(INTERFACES, answers, strict=True):
        fields = [problem["field"] for problem in answer["problems"]]
        if "interface" not in fields:
            interfaces.append(interface)
        notes += [
            ", ".join(filter(None, (problem["reason"], problem.get("hint", ""))))
            for problem in answer["problems"]
            if problem["field"] != "interface"
        ]
    first = answers[0]
    version = str(first["version"])
    return Found(name, bool(version), version, interfaces, str(first["python"]), prefix, list(dict.fromkeys(notes)))
