"""A report as JSON: written, read, and described.

What `trapeze bench --json FILE` writes: one JSON document, the same from which the table and the page are made.
`trapeze_bench.documents` reads it (`loads`) and has its JSON Schema (`schema`).

The format is stable: fields are added, never renamed and never removed, and a reader has to pass over those that it
does not know. `format` goes up when a field means something else. Lists of numbers have one entry for each round, in
the order of the rounds, unless it says otherwise.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any, get_args, get_origin

import msgspec

from trapeze_bench.results import FORMAT, Report

__all__ = ["NotAReport", "dumps", "field_docs", "loads", "schema", "structs", "words"]

PLAIN = {str: "text", int: "whole number", float: "number", bool: "true or false", type(None): "null"}


class NotAReport(Exception):
    """What was read is not a report that this version understands."""


class _Head(msgspec.Struct):
    format: int = FORMAT


def dumps(report: Report) -> bytes:
    """The document in one line: what `--json` writes."""
    return msgspec.json.encode(report) + b"\n"


def loads(text: bytes | str) -> Report:
    """Read a document. Fields that a newer version added are passed over; those that an older one lacked have defaults.

    Raises:
        NotAReport: it is no such document, or one whose `format` is newer: then fields mean something else.
    """
    try:
        found = msgspec.json.decode(text, type=_Head).format
        if found <= FORMAT:
            return msgspec.json.decode(text, type=Report)
    except msgspec.DecodeError as error:
        raise NotAReport(f"not a report of the bench: {error}") from None
    raise NotAReport(f"a report of format {found}: this version reads up to {FORMAT}")


def structs() -> list[type[msgspec.Struct]]:
    """Of what a document consists: the whole, then its parts as they come."""
    return list(dict.fromkeys(_structs(Report)))


def _structs(kind: Any) -> Iterator[type[msgspec.Struct]]:
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        yield kind
        inner = [field.type for field in msgspec.structs.fields(kind)]
    else:
        inner = list(get_args(kind))
    for each in inner:
        yield from _structs(each)


def field_docs(struct: type[msgspec.Struct]) -> dict[str, str]:
    """What stands below each field in the source: its meaning, and its unit."""
    return dict(_field_docs(inspect.getsource(struct)))


def _field_docs(source: str) -> Iterator[tuple[str, str]]:
    for name, text in re.findall(r'^    (\w+): [^\n]*\n    """(.*?)"""', source, re.MULTILINE | re.DOTALL):
        yield name, " ".join(text.split())


def words(kind: Any) -> str:
    """A type of the document in words, in Markdown: parts of the document lead to their tables."""
    inner = get_args(kind)
    shapes = {list: "list of {}", tuple: "list of {}", dict: "object of {}"}
    origin = get_origin(kind)
    if origin in shapes:
        parts = inner[1:] if origin is dict else inner
        return shapes[origin].format(", ".join(map(words, parts)))
    if inner:
        return " or ".join(map(words, inner))
    return PLAIN.get(kind) or f"[{kind.__name__}](#{kind.__name__.lower()})"


def schema() -> dict[str, Any]:
    """JSON Schema of the document, with what each field means."""
    found = msgspec.json.schema(Report)
    for struct in structs():
        described = found["$defs"][struct.__name__]["properties"]
        for name, text in field_docs(struct).items():
            described[name]["description"] = text
    return found
