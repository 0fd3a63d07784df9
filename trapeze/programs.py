"""The programs that a service runs, looked up as exec will: by its PATH, from its directory, as its user."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping

from msgspec.structs import replace

from trapeze.access import Person
from trapeze.envfile import OURS
from trapeze.reach import EXECUTE, READ, Found, refusal
from trapeze.resolve import split
from trapeze.spec import ServiceSpec

__all__ = ["candidates", "examine_programs", "runs"]

_VARIABLE = re.compile(r"\{env:([^{}]*)\}")
_FIRST_LINE = 256
"""Bytes of a script in which the kernel looks for its interpreter."""
_ENV = ("/usr/bin/env", "/bin/env")
_DEEPEST = 4
"""Interpreters that are scripts themselves: the kernel gives up at the fifth."""


def examine_programs(spec: ServiceSpec, env: Mapping[str, str], who: Person | None) -> Iterator[Found]:
    """Every program that will be started.

    Args:
        spec: the service, its paths absolute.
        env: its environment.
        who: the user that it is handed to; None if it stays with us.
    """
    place = _Place(spec.cwd or "/", env.get("PATH", os.defpath), who)
    if spec.app is not None and who is not None:
        yield from _interpreter(spec, place)
    for field, words in _commands(spec):
        missing = [name for word in words for name in _VARIABLE.findall(word) if name not in env and name not in OURS]
        if missing:
            yield Found(field, f"the environment has no {missing[0]}", f"add it to env, or drop {{env:{missing[0]}}}")
            continue
        program = _VARIABLE.sub(lambda match: env.get(match[1], ""), words[0])
        if "{" not in program:
            found = _program(field, program, place)
            if found is not None:
                yield found


def _interpreter(spec: ServiceSpec, place: _Place) -> Iterator[Found]:
    """The Python of an app, which is ours where none is named. Whether there is one at all, `preflight` says."""
    field, python = "user", sys.executable
    if spec.python is not None:
        field, python = "python", spec.python
    elif spec.venv is not None:
        field, python = "venv", f"{spec.venv}/bin/python"
    fault = _fault(field, python, place, 0) if runs(python) else None
    if fault is not None:
        yield fault


def _commands(spec: ServiceSpec) -> Iterator[tuple[str, list[str]]]:
    """(field, words) of everything that the service runs; of what `config` has refused already, nothing."""
    if spec.shell:
        yield "command", ["/bin/sh"]
    elif spec.command:
        yield from _one("command", spec.command)
    for command in [spec.pre_start] if isinstance(spec.pre_start, str) else spec.pre_start:
        yield from _one("pre_start", command)
    if spec.ready is not None and spec.ready.startswith("exec:"):
        yield from _one("ready", spec.ready.removeprefix("exec:"))


def _one(field: str, command: str | list[str]) -> Iterator[tuple[str, list[str]]]:
    try:
        words = split(command) if isinstance(command, str) else command
    except ValueError:
        return
    if words and words[0]:
        yield field, words


class _Place:
    """Where programs are looked for, and for whom."""

    def __init__(self, cwd: str, path: str, who: Person | None) -> None:
        self.cwd = cwd
        self.path = path
        self.who = who


def candidates(program: str, cwd: str, path: str) -> list[str]:
    """What exec would try in turn, of what is there and may be run by somebody.

    Relative entries of the search path count from `cwd`.
    """
    parts = [""] if "/" in program else path.split(os.pathsep)
    return [each for part in parts if runs(each := os.path.join(cwd, part, program))]


def runs(path: str) -> bool:
    """Is it a file that we may execute? Of root that says only that somebody may."""
    return os.path.isfile(path) and os.access(path, os.X_OK, effective_ids=True)


def _program(field: str, program: str, place: _Place, depth: int = 0) -> Found | None:
    """Why a program cannot be run: exec goes on to the next of its name that can be, and complains of the first."""
    faults = [_fault(field, each, place, depth) for each in candidates(program, place.cwd, place.path)]
    if faults:
        return None if None in faults else faults[0]
    if "/" not in program:
        hint = "install it, give its whole path, or set PATH in env"
        return Found(field, f'the program "{program}" is not on the PATH', hint)
    whole = os.path.join(place.cwd, program)
    return Found(field, f"{whole}: {_absence(whole)}", f"chmod +x {whole}" if os.path.isfile(whole) else "")


def _absence(path: str) -> str:
    """Why there is nothing to run."""
    if os.path.isdir(path):
        return "is a directory, not a program"
    return "may not be executed" if os.path.exists(path) else "there is no such program"


def _fault(field: str, program: str, place: _Place, depth: int) -> Found | None:
    """Why exec would fail with a program that is there: its user may not, or a script's interpreter is not there."""
    words = _first_line(program)
    # A script is read as well, by its interpreter.
    wanted, verb = (READ | EXECUTE, "read and execute") if words else (EXECUTE, "execute")
    refused = refusal(field, program, place.who, wanted, verb) if place.who is not None else None
    if refused is not None or not words or depth > _DEEPEST:
        return refused
    interpreter = os.path.join(place.cwd, words[0])
    if not runs(interpreter):
        shown = interpreter if interpreter.isprintable() else ascii(interpreter)
        hint = "its lines end as on Windows: dos2unix" if interpreter.endswith("\r") else ""
        return Found(field, f"{program}: its interpreter {shown}: {_absence(interpreter)}", hint)
    inner = _fault(field, interpreter, place, depth + 1) or _of_env(field, words, place, depth)
    return inner and replace(inner, reason=f"{program}: its interpreter {inner.reason}")


def _of_env(field: str, words: list[str], place: _Place, depth: int) -> Found | None:
    """The program that env(1) looks for in its turn, where a script names no more than that."""
    if words[0] not in _ENV or len(words) == 1 or words[1].startswith("-") or "=" in words[1]:
        return None
    inner = _program(field, words[1], place, depth + 1)
    return inner and replace(inner, reason=f"{words[0]}: {inner.reason}")


def _first_line(program: str) -> list[str]:
    """Interpreter and argument of a script; nothing for any other program, or one that we may not read."""
    try:
        with open(program, "rb") as file:
            start = file.read(_FIRST_LINE)
    except OSError:
        return []
    if not start.startswith(b"#!"):
        return []
    line = start[2:].partition(b"\n")[0].strip(b" \t")
    return [os.fsdecode(word) for word in re.split(rb"[ \t]+", line, maxsplit=1) if word]
