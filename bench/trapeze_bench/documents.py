"""A report as JSON: written, read, and described by a schema."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import msgspec

from trapeze_bench import results
from trapeze_bench.results import FORMAT, Report

__all__ = ["NotAReport", "dumps", "field_docs", "loads", "schema", "structs"]


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
    """Of what a document consists, the whole before its parts."""
    found = [each for name in results.__all__ if isinstance(each := getattr(results, name), type)]
    return sorted(found, key=lambda each: inspect.getsourcelines(each)[1], reverse=True)


def field_docs(struct: type[msgspec.Struct]) -> dict[str, str]:
    """What stands below each field in the source: its meaning, and its unit."""
    return dict(_field_docs(inspect.getsource(struct)))


def _field_docs(source: str) -> Iterator[tuple[str, str]]:
    for name, text in re.findall(r'^    (\w+): [^\n]*\n    """(.*?)"""', source, re.MULTILINE | re.DOTALL):
        yield name, " ".join(text.split())


def schema() -> dict[str, Any]:
    """JSON Schema of the document, with what each field means."""
    found = msgspec.json.schema(Report)
    for struct in structs():
        described = found["$defs"][struct.__name__]["properties"]
        for name, text in field_docs(struct).items():
            described[name]["description"] = text
    return found
