"""JSON without the `json` package where possible: that one imports `re`, which costs 5 ms in a bare interpreter."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["dumps", "loads"]


class _Context:
    """What the C scanner of CPython's json asks its decoder for."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float

    def __init__(self) -> None:
        self.memo: dict[str, str] = {}


def loads(text: str) -> Any:
    """Return the value that `text` holds.

    Raises:
        ValueError: it is not JSON.
    """
    try:
        from _json import make_scanner
    except ImportError:  # not CPython, or one without its accelerator
        import json

        return json.loads(text)
    try:
        context: Any = _Context()
        value, end = make_scanner(context)(text, 0)
    except StopIteration as stop:
        raise ValueError(f"not JSON at character {stop.value}") from None
    if text[end:].strip():
        raise ValueError(f"not JSON at character {end}")
    return value


def dumps(value: Any) -> str:
    """Return `value` (a str, bool, finite number, None, list or dict of such) as JSON, on one line."""
    if value is None or value is True or value is False:
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_string(key)}: {dumps(item)}" for key, item in value.items()) + "}"
    return "[" + ", ".join(dumps(item) for item in value) + "]"


def _string(text: str) -> str:
    try:
        from _json import encode_basestring
    except ImportError:
        import json

        return json.dumps(text, ensure_ascii=False)
    return str(encode_basestring(text))
