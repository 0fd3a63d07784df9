"""`backends`: which servers an environment has, which versions, and what each can do."""

from __future__ import annotations

import os
import shutil
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
if sys.version_info < (3, 10):
    sys.exit("Python %s in %s is too old, workers need 3.10 or newer" % (sys.version.split()[0], sys.prefix))
sys.path[:] = [entry for entry in sys.path if entry]
from importlib.metadata import entry_points
names = [point.name for point in entry_points(group="trapeze.backends")]
sys.path.append(sys.argv[1])
from trapeze_backends.registry import BUILT_IN
print("\\n".join([sys.prefix] + list(dict.fromkeys(list(BUILT_IN) + names))))
"""

INTERFACES = ("wsgi", "asgi")


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
@click.option("--python", metavar="PATH", help="Look where this interpreter looks, instead.")
@json_option
def backends(venv: str | None, python: str | None, as_json: bool) -> int:
    """Show which servers are installed, and what each can do.

    Each is asked in an interpreter of its own.
    """
    if venv is not None and python is not None:
        raise click.UsageError("--python goes without --venv, which has a Python of its own")
    found = look(venv, python)
    if as_json:
        click.echo(msgspec.json.encode([each._asdict() for each in found]))
        return 0
    say(f"in {found[0].venv}:")
    rows = [("NAME", "INSTALLED", "VERSION", "INTERFACES", "PYTHON", "NOTES")]
    for each in found:
        installed = "yes" if each.installed else "no"
        served = ", ".join(each.interfaces).upper()
        rows.append((each.name, installed, each.version or "-", served, each.python, "; ".join(each.notes)))
    click.echo(aligned(rows))
    return 0


def look(venv: str | None, python: str | None = None) -> list[Found]:
    """Ask every backend that the environment knows, for each interface, all at the same time.

    Raises:
        TrapezeError: there is no Python in that environment, or no such Python.
    """
    program = _program(venv, python)
    prefix, names = _names(program)
    checks = {
        name: [start_check(program, {"backend": name, "interface": interface}) for interface in INTERFACES]
        for name in names
    }
    return [_judge(name, prefix, [finish_check(check) for check in running]) for name, running in checks.items()]


def _program(venv: str | None, python: str | None) -> str:
    if python is not None:
        found = shutil.which(python)
        if found is None:
            raise TrapezeError(f"there is no program {python}")
        return os.path.abspath(found)
    if venv is None:
        return sys.executable
    prefix = os.path.abspath(venv)
    program = os.path.join(prefix, "bin", "python")
    if not os.access(program, os.X_OK):
        raise TrapezeError(f"{prefix} is no virtual environment: there is no {program}")
    return program


def _names(python: str) -> tuple[str, list[str]]:
    """Where that interpreter has its packages, and the backends that it knows."""
    listed = subprocess.run([python, "-c", _LIST, worker_package()], capture_output=True, text=True, check=False)
    if listed.returncode != 0 or not listed.stdout:
        said = listed.stderr.strip().splitlines()
        raise TrapezeError(f"{python} cannot list its backends: {said[-1] if said else 'it said nothing'}")
    prefix, *names = listed.stdout.splitlines()
    return prefix, names


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
