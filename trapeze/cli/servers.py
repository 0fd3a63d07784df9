"""What is known of the backends of an environment: each is asked in an interpreter of its own, all at the same time."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import Any, NamedTuple

from trapeze.errors import TrapezeError
from trapeze.examine_backend import finish_check, start_check
from trapeze.prelude import worker_package

__all__ = ["Environment", "Found", "environment", "look"]

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


class Environment(NamedTuple):
    """Where backends are looked for."""

    python: str
    """The interpreter."""
    prefix: str
    """The directory that holds its packages."""
    names: list[str]
    """The backends that it knows."""


class Found(NamedTuple):
    """One backend in one environment."""

    name: str
    installed: bool
    version: str
    interfaces: list[str]
    speaks: list[str]
    """Beyond HTTP/1.1: "websocket", "http2"."""
    fields: dict[str, str]
    """How it meets each field that means the same everywhere: "native", "trapeze", "no"."""
    why: dict[str, str]
    """The reasons of some of the answers."""
    lacks: dict[str, str]
    """Promises that it cannot keep, each with the reason."""
    python: str
    venv: str
    notes: list[str]


def environment(venv: str | None, python: str | None = None) -> Environment:
    """Return the environment that is meant; that of an interpreter, or, without both, the one that trapeze runs in.

    Raises:
        TrapezeError: there is no Python in it, or no such Python, or it cannot be asked.
    """
    program = _program(venv, python)
    listed = subprocess.run([program, "-c", _LIST, worker_package()], capture_output=True, text=True, check=False)
    if listed.returncode != 0 or not listed.stdout:
        words = listed.stderr.strip().splitlines()
        raise TrapezeError(f"{program} cannot list its backends: {words[-1] if words else 'it said nothing'}")
    prefix, *names = listed.stdout.splitlines()
    return Environment(program, prefix, names)


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


def look(where: Environment, only: str | None = None) -> list[Found]:
    """Ask every backend that the environment knows, or only one."""
    names = where.names if only is None else [only]
    checks = {name: start_check(where.python, {"backend": name}) for name in names}
    return [_judge(name, where.prefix, finish_check(check)) for name, check in checks.items()]


def _judge(name: str, prefix: str, answer: dict[str, Any]) -> Found:
    problems = [", ".join(filter(None, (problem["reason"], problem.get("hint", "")))) for problem in answer["problems"]]
    version = str(answer["version"])
    return Found(
        name,
        bool(version) and not answer["problems"],
        version,
        list(answer.get("interfaces", [])),
        list(answer.get("speaks", [])),
        dict(answer.get("fields", {})),
        dict(answer.get("why", {})),
        dict(answer.get("lacks", {})),
        str(answer["python"]),
        prefix,
        [*dict.fromkeys(problems), *filter(None, [answer.get("note", "")])],
    )
