"""Versions of servers, and of the parsers below them, with a hole that matters behind nginx. Only what is sure.

Each entry stands at https://nvd.nist.gov/vuln/detail/NUMBER; `fixed` is the first version without it.
"""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["HOLES", "Hole", "numbers", "older"]


class Hole(NamedTuple):
    """One advisory."""

    package: str
    fixed: str
    number: str
    what: str
    since: str = "0"
    """The first version that has it."""


HOLES = (
    Hole("gunicorn", "22.0.0", "CVE-2024-1135", "requests can be smuggled by conflicting Transfer-Encoding headers"),
    Hole("gunicorn", "23.0.0", "CVE-2024-6827", "requests can be smuggled by an unknown Transfer-Encoding"),
    Hole("waitress", "3.0.1", "CVE-2024-49768", "a pipelined request is served after the first was refused", "2.0.0"),
    Hole("waitress", "3.0.1", "CVE-2024-49769", "connections that close early leave a busy loop"),
    Hole("aiohttp", "3.10.11", "CVE-2024-52304", "requests can be smuggled by chunk extensions"),
    Hole("tornado", "6.4.2", "CVE-2024-52804", "cookies that take quadratic time stop the event loop"),
    Hole("tornado", "6.5", "CVE-2025-47287", "a broken multipart form floods the log and stops the event loop"),
    Hole("h11", "0.16.0", "CVE-2025-43859", "requests can be smuggled by malformed chunks"),
    Hole("h2", "4.3.0", "CVE-2025-57804", "requests can be split by line ends in HTTP/2 headers"),
    Hole("eventlet", "0.40.3", "CVE-2025-58068", "requests can be smuggled in trailers"),
    Hole("gevent", "23.9.0", "CVE-2023-41419", "requests can be smuggled through its WSGI server"),
    Hole("twisted", "24.7.0", "CVE-2024-41671", "pipelined requests can be answered in the wrong order"),
    Hole("werkzeug", "3.0.6", "CVE-2024-49767", "forms can take as much memory as they like"),
    Hole("uvicorn", "0.11.7", "CVE-2020-7695", "headers can be split by what the app writes into them"),
)


def numbers(version: str) -> tuple[int, ...]:
    """A version to be compared: "3.0.1rc1" is (3, 0, 1). What follows the numbers is left out."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    parts = [int(part) for part in found[0].split(".")] if found else []
    while parts and parts[-1] == 0:
        parts.pop()
    return tuple(parts)


def older(package: str, version: str) -> list[Hole]:
    """Return the holes that a package of this version has."""
    have = numbers(version)
    return [
        hole for hole in HOLES if hole.package == package and have and numbers(hole.since) <= have < numbers(hole.fixed)
    ]
