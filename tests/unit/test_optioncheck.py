"""What is wrong with `options`."""

from __future__ import annotations

from typing import Any

import pytest
from trapeze_backends.contract import Job, Problem
from trapeze_backends.optioncheck import check_kinds, check_names, check_twice

KNOWN = ("threads", "timeout")
OWNED = {"port": "the sockets are bound"}


@pytest.mark.parametrize(
    ("name", "reason", "hint"),
    [
        ("port", "tiny's port has no place here: the sockets are bound", ""),
        ("thread", "tiny has no such setting", "did you mean 'threads'?"),
        ("x", "tiny has no such setting", "it knows threads, timeout"),
    ],
)
def test_names(name: str, reason: str, hint: str) -> None:
    assert check_names("tiny", {name: 1, "timeout": 2}, KNOWN, OWNED) == [Problem(f"options.{name}", reason, hint)]


def test_a_server_without_settings() -> None:
    assert check_names("tiny", {"x": 1}, (), {})[0].hint == "it has none"


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (int, [0, 4], [True, 1.5, "4"]),
        (float, [0, 1, 1.5], [False, "1"]),
        (bool, [True, False], [0, "yes"]),
        (str, ["a"], [1]),
        (dict, [{}], [[]]),
    ],
)
def test_kinds(kind: type, good: list[Any], bad: list[Any]) -> None:
    assert [check_kinds({"a": value}, {"a": kind}) for value in good] == [[]] * len(good)
    assert [len(check_kinds({"a": value}, {"a": kind})) for value in bad] == [1] * len(bad)


def test_below_zero() -> None:
    assert check_kinds({"a": -1, "b": -1}, {"a": int}) == [Problem("options.a", "-1 is below zero")]


def test_set_twice() -> None:
    fields = {"timeout": "keepalive", "threads": "threads"}
    job = Job({"version": 1, "keepalive": 0})
    assert check_twice({"timeout": 1, "threads": 2}, job, fields) == [
        Problem("options.timeout", "set twice: it is the same as the field `keepalive`")
    ]
