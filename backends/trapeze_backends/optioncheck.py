"""What is wrong with `options`: names that belong to the supervisor or that nobody knows, values of another kind."""

from __future__ import annotations

from trapeze_backends.contract import Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from typing import Any

    from trapeze_backends.contract import Job

__all__ = ["BOUND", "check_kinds", "check_names", "check_twice"]

BOUND = "the sockets of the service are bound by the supervisor"

WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", dict: "a table"}
MANY = 8
"""So many names may stand in a hint."""


def check_names(
    title: str, options: Mapping[str, Any], known: Collection[str], owned: Mapping[str, str]
) -> list[Problem]:
    """Return a problem for each option that has no place here, or that the server does not know.

    Args:
        title: the server.
        options: what is set.
        known: names of its settings.
        owned: those that belong to the supervisor, each with the reason.
    """
    problems = []
    for name in options:
        if name in owned:
            problems.append(Problem(f"options.{name}", f"{title}'s {name} has no place here: {owned[name]}"))
        elif name not in known:
            problems.append(Problem(f"options.{name}", f"{title} has no such setting", _hint(name, known)))
    return problems


def _hint(name: str, known: Collection[str]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, list(known), n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    if not known:
        return "it has none"
    return f"it knows {', '.join(sorted(known))}" if len(known) <= MANY else ""


def check_kinds(options: Mapping[str, Any], kinds: Mapping[str, type]) -> list[Problem]:
    """Return a problem for each option whose value is of another kind than its setting, or below zero."""
    problems = []
    for name, value in options.items():
        kind = kinds.get(name)
        if kind is not None and not _is(value, kind):
            problems.append(Problem(f"options.{name}", f"{value!r} is not {WORDS[kind]}"))
        elif kind in (int, float) and value < 0:
            problems.append(Problem(f"options.{name}", f"{value!r} is below zero"))
    return problems


def _is(value: object, kind: type) -> bool:
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))


def check_twice(options: Mapping[str, Any], job: Job, fields: Mapping[str, str]) -> list[Problem]:
    """Return a problem for each setting that is set, and whose field is set too (`fields`: setting -> field)."""
    return [
        Problem(f"options.{setting}", f"set twice: it is the same as the field `{field}`")
        for setting, field in fields.items()
        if setting in options and getattr(job, field) is not None and getattr(job, field) is not False
    ]
