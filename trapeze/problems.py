"""Words for what is wrong: types and values in plain English, and "did you mean".

Used only once something *is* wrong, so nothing here is in the way of a start; difflib is imported when asked for.
"""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from msgspec import Meta, Struct

from trapeze.errors import Problem

__all__ = ["Problems", "Why", "describe", "did_you_mean", "explain", "got", "join", "members"]

_LONGEST = 60
"""Characters of a wrong value that are shown."""

_KINDS: dict[object, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Any: "any value",
}
_OCTAL = "^0?[0-7]{3}$"
_PATH = "^/"


class Why(NamedTuple):
    """What is wrong with a value."""

    key: str
    """The key in it that is wrong; empty for the value itself."""
    reason: str
    hint: str = ""


class Problems:
    """Collects problems and remembers which paths are already spoiled, so that one mistake is reported once."""

    def __init__(self, origins: Mapping[str, str], otherwise: str = "") -> None:
        self.origins = origins
        self.otherwise = otherwise
        """Origin of what is missing altogether: the file."""
        self.found: list[Problem] = []
        self._spoiled: set[str] = set()

    def add(self, path: str, reason: str, hint: str = "", *, at: str | None = None) -> None:
        """Note one problem; its origin is looked up for `at` (default: `path`), or for the nearest parent."""
        problem = Problem(path, reason, hint, self.origin(path if at is None else at))
        if problem not in self.found:
            self.found.append(problem)
        self.spoil(path)

    def spoil(self, path: str) -> None:
        """Mark a path and all its parents, so that later checks leave them alone."""
        while path:
            self._spoiled.add(path)
            path = path.rpartition(".")[0]

    def spoiled(self, path: str) -> bool:
        """Was something wrong here, or below?"""
        return path in self._spoiled

    def origin(self, path: str) -> str:
        """Who gave the value at `path`: its own origin, that of a parent, or that of something in it."""
        parent = path
        while parent:
            if parent in self.origins:
                return self.origins[parent]
            parent = parent.rpartition(".")[0]
        inside = path + "."
        return next((who for leaf, who in self.origins.items() if leaf.startswith(inside)), self.otherwise)


def join(path: str, key: str) -> str:
    """`services` and `web` to `services.web`."""
    return f"{path}.{key}" if path else key


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`did you mean "workers"?`, or nothing when no known word is near."""
    import difflib

    by_lower = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return f'did you mean "{by_lower[near[0]]}"?' if near else ""


def got(value: object) -> str:
    """What a value is, in words, with the value itself as far as it fits: `text "four"`."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "nothing"
    if isinstance(value, str):
        shown = value if len(value) <= _LONGEST else value[:_LONGEST] + "..."
        return 'text "' + shown.encode("unicode_escape").decode("ascii").replace('"', '\\"') + '"'
    if isinstance(value, int):
        return f"the whole number {value}" if abs(value) < 10**_LONGEST else "a huge whole number"
    if isinstance(value, float):
        return f"the number {value!r}"
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, list | tuple):
        return "a list" if value else "an empty list"
    return f"a {type(value).__name__}"


def members(kind: Any) -> tuple[list[Any], list[Meta]]:
    """The plain types a field may have (None left out), and the limits on them."""
    metas: list[Meta] = []
    if get_origin(kind) is Annotated:
        metas = [meta for meta in kind.__metadata__ if isinstance(meta, Meta)]
        kind = get_args(kind)[0]
    if get_origin(kind) not in (Union, types.UnionType):
        return [kind], metas
    plain: list[Any] = []
    for part in get_args(kind):
        if part is type(None):
            continue
        inner, more = members(part)
        plain += inner
        metas += more
    return plain, metas


def describe(kind: Any) -> str:
    """A type in words: `text or a list of texts`."""
    plain = members(kind)[0]
    if float in plain:
        plain = [part for part in plain if part is not int]
    words = list(dict.fromkeys(word for part in plain for word in _words(part)))
    return f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else words[0]


def _words(kind: Any) -> list[str]:
    origin = get_origin(kind)
    if origin is Literal:
        return [f'"{word}"' for word in get_args(kind)]
    if origin is list:
        return ["a list of texts"]
    if origin is dict or (isinstance(kind, type) and issubclass(kind, Struct)):
        return ["a table"]
    return [_KINDS.get(kind, "another type")]


def explain(value: object, kind: Any) -> list[Why]:
    """Why `value` is no `kind`: one answer, or one for each wrong element. For when the conversion has failed."""
    plain, metas = members(kind)
    usual = f"expected {describe(kind)}, got {got(value)}"
    hint = _octal_hint(value) if any(meta.pattern == _OCTAL for meta in metas) else ""
    if isinstance(value, str):
        words = [word for part in plain if get_origin(part) is Literal for word in get_args(part)]
        hint = hint or (did_you_mean(value, words) if words else "")
    return _elements(value, plain) or _limits(value, plain, metas) or [Why("", usual, hint)]


def _elements(value: object, plain: list[Any]) -> list[Why]:
    """The wrong elements of a list or a table."""
    if isinstance(value, list) and any(get_origin(part) is list for part in plain):
        reasons = [
            f"item {number}: expected text, got {got(item)}"
            for number, item in enumerate(value, 1)
            if not isinstance(item, str)
        ]
        return [Why("", reason) for reason in reasons]
    kinds = [get_args(part)[1] for part in plain if get_origin(part) is dict]
    if isinstance(value, Mapping) and kinds:
        return _entries(value, kinds[0])
    return []


def _entries(value: Mapping[Any, object], kind: Any) -> list[Why]:
    plain = tuple(part for each in members(kind)[0] if isinstance(part := get_origin(each) or each, type))
    inner = [
        Why(str(key), why.reason, why.hint)
        for key, item in value.items()
        if isinstance(item, list)
        for why in _elements(item, members(kind)[0])
    ]
    return inner + [
        Why(str(key), f"expected {describe(kind)}, got {got(item)}")
        for key, item in value.items()
        if not isinstance(item, plain) or (isinstance(item, bool) and bool not in plain)
    ]


def _limits(value: object, plain: list[Any], metas: list[Meta]) -> list[Why]:
    """A value of the right type that is out of range, or not of the right form."""
    if isinstance(value, bool):
        return []
    for meta in metas:
        number = isinstance(value, int | float) and (float in plain or isinstance(value, int))
        if number and meta.ge is not None and not value >= meta.ge:  # type: ignore[operator]
            return [Why("", f"must be at least {meta.ge}, got {value}")]
        if number and meta.le is not None and not value <= meta.le:  # type: ignore[operator]
            return [Why("", f"must be at most {meta.le}, got {value}")]
        if meta.pattern is not None and isinstance(value, str):
            return [_form(value, meta.pattern)]
    if isinstance(value, int) and plain in ([int], [float]):
        return [Why("", "the number is too large")]
    return []


def _form(value: str, pattern: str) -> Why:
    if pattern == _OCTAL:
        return Why("", f"expected an octal number as text, got {got(value)}", _octal_hint(value))
    if pattern == _PATH:
        return Why("", f"expected a path, got {got(value)}", 'as in "/healthz"')
    return Why("", f"not a valid name: {got(value)}", "letters, digits, _ . and -, at most 64, a letter or digit first")


def _octal_hint(value: object) -> str:
    digits = str(value)
    if set(digits) - set("01234567") or len(digits) > 3:
        return 'its digits are 0 to 7, as in "0640"'
    return f'write it as "0{digits.zfill(3)}"'
