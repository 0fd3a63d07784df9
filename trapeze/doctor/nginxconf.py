"""What counts of nginx's configuration, read from what `nginx -T` prints. Pure.

Settings are inherited as nginx does it: a `proxy_set_header` in a block replaces all of those of the blocks around it.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from trapeze.doctor.facts import Passed, Pool

__all__ = ["Directive", "Read", "files", "parse", "read", "seconds"]

_FILE = re.compile(r"^# configuration file (?P<path>.+):$")
_TOKEN = re.compile(r"""\s+|\#[^\n]*|"((?:[^"\\]|\\.)*)"|'((?:[^'\\]|\\.)*)'|([;{}])|((?:\$\{[^}]*\}|[^\s;{}"'])+)""")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0, "M": 2592000.0, "y": 31536000.0}


class Directive(NamedTuple):
    """One directive, with what stands in its braces."""

    words: Sequence[str]
    line: int
    inner: Sequence[Directive] = ()


class Read(NamedTuple):
    """What was read."""

    user: str | None
    pid: str | None
    connections: int
    nofile: int | None
    pools: Mapping[str, Pool]
    passed: Sequence[Passed]


def files(printed: str) -> dict[str, str]:
    """Take apart what `nginx -T` prints: each file's path and text, the main one first."""
    found: dict[str, list[str]] = {}
    current: list[str] = []
    for line in printed.splitlines():
        if head := _FILE.match(line):
            current = found.setdefault(head["path"], [])
        else:
            current.append(line)
    return {path: "\n".join(lines) for path, lines in found.items()}


def parse(text: str) -> list[Directive]:
    """Read the directives of one file. What cannot be read, nginx would have refused, is left out."""
    stack: list[list[Directive]] = [[]]
    heads: list[tuple[list[str], int]] = []
    words: list[str] = []
    begun = 1
    for token, line in _tokens(text):
        if token == ";":
            stack[-1].append(Directive(words, begun))
            words = []
        elif token == "{":
            heads.append((words, begun))
            stack.append([])
            words = []
        elif token == "}":
            if heads:
                inner, (head, at) = stack.pop(), heads.pop()
                stack[-1].append(Directive(head, at, inner))
            words = []
        else:
            begun = begun if words else line
            words.append(token)
    return stack[0]


def _tokens(text: str) -> Iterator[tuple[str, int]]:
    line = 1
    for found in _TOKEN.finditer(text):
        double, single, mark, word = found.groups()
        token = next((part for part in (double, single, mark, word) if part is not None), None)
        if token is not None:
            yield token, line
        line += found[0].count("\n")


def seconds(text: str) -> float:
    """A time as nginx writes it: "5s", "500ms", "1h30m", "60". 0 where it is none."""
    parts = re.findall(r"([0-9]+)(ms|[smhdwMy])?", text)
    return sum(float(number) * _UNITS[unit or "s"] for number, unit in parts)


class _Scope(NamedTuple):
    """What a block has inherited."""

    version: str = "1.0"
    connection: str | None = None


def read(printed: str) -> Read:
    """Read what counts from what `nginx -T` printed."""
    texts = files(printed)
    main = next(iter(texts), "")
    parsed = {path: parse(text) for path, text in texts.items()}
    reader = _Reader(parsed, os.path.dirname(main))
    reader.block(main, parsed.get(main, []), _Scope())
    return Read(
        reader.settings.get("user"),
        reader.settings.get("pid"),
        _number(reader.settings.get("worker_connections")) or 512,
        _number(reader.settings.get("worker_rlimit_nofile")),
        reader.pools,
        reader.passed,
    )


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None


class _Reader:
    """One pass over all files."""

    def __init__(self, parsed: Mapping[str, Sequence[Directive]], prefix: str) -> None:
        self._parsed = parsed
        self._prefix = prefix
        self.settings: dict[str, str] = {}
        self.pools: dict[str, Pool] = {}
        self.passed: list[Passed] = []

    def block(self, path: str, directives: Sequence[Directive], scope: _Scope) -> None:
        """Read one block, and what it includes."""
        expanded = list(self._expanded(path, directives))
        scope = _inherited([each for _, each in expanded], scope)
        for where, each in expanded:
            name, *words = each.words or [""]
            if name in ("user", "pid", "worker_connections", "worker_rlimit_nofile") and words:
                self.settings[name] = words[0]
            elif name == "upstream" and words:
                self.pools[words[0]] = self._pool(where, each)
            elif name == "proxy_pass" and words:
                self._passes(where, each, words[0], scope)
            elif each.inner:
                self.block(where, each.inner, scope)

    def _expanded(self, path: str, directives: Sequence[Directive]) -> Iterator[tuple[str, Directive]]:
        for each in directives:
            if each.words[:1] != ["include"] or len(each.words) < 2:
                yield path, each
                continue
            pattern = os.path.join(self._prefix, each.words[1])
            for other, inner in self._parsed.items():
                if other != path and fnmatch.fnmatchcase(other, pattern):
                    yield from self._expanded(other, inner)

    def _pool(self, path: str, upstream: Directive) -> Pool:
        servers, keepalive, idle = [], 0, 60.0
        for _, each in self._expanded(path, upstream.inner):
            name, *words = each.words or [""]
            if name == "server" and words:
                servers.append(_address(words[0]))
            elif name == "keepalive" and words:
                keepalive = _number(words[0]) or 0
            elif name == "keepalive_timeout" and words:
                idle = seconds(words[0])
        return Pool(servers=servers, keepalive=keepalive, idle=idle, where=f"{path}:{upstream.line}")

    def _passes(self, path: str, directive: Directive, url: str, scope: _Scope) -> None:
        where = f"{path}:{directive.line}"
        target = re.sub(r"^https?://", "", url)
        if target.startswith("unix:"):
            target = target.rpartition(":")[0] if target.count(":") > 1 else target
        else:
            target = target.partition("/")[0]
        if target not in self.pools and ("unix:" in target or ":" in target):
            self.pools[target] = Pool(servers=[_address(target)], where=where)
        self.passed.append(Passed(target=target, version=scope.version, connection=scope.connection, where=where))


def _inherited(directives: Sequence[Directive], scope: _Scope) -> _Scope:
    version, connection, own = scope.version, scope.connection, False
    for each in directives:
        name, *words = each.words or [""]
        if name == "proxy_http_version" and words:
            version = words[0]
        elif name == "proxy_set_header" and len(words) > 1:
            connection = connection if own else None
            own = True
            if words[0].lower() == "connection":
                connection = words[1]
    return _Scope(version, connection)


def _address(text: str) -> str:
    """As trapeze writes it."""
    if text.startswith("unix:"):
        return text
    host, colon, port = text.rpartition(":")
    host, port = (host, port) if colon else (text, "80")
    return f"{'127.0.0.1' if host == 'localhost' else host}:{port}"
