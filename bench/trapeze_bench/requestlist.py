"""What is asked for: paths, methods and bodies, from the command line or a file. Pure, apart from reading the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

__all__ = ["ROOT", "Asked", "BadRequests", "parse", "read", "request"]

METHODS = {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}


class BadRequests(ValueError):
    """Something that cannot be asked for; its text says where it stands."""


class Asked(NamedTuple):
    """A request."""

    method: str
    path: str
    body: bytes = b""

    @property
    def words(self) -> str:
        """As reports show it: "GET /x"."""
        return f"{self.method} {self.path}"

    @property
    def fields(self) -> dict[str, str]:
        """The header fields that it needs besides Host."""
        if not self.body and self.method not in ("POST", "PUT", "PATCH"):
            return {}
        return {"Content-Type": _type(self.body), "Content-Length": str(len(self.body))}

    def raw(self, *, keep: bool = True) -> bytes:
        """As it is sent: a server may keep the connection, or is told not to."""
        fields = {"Host": "localhost", **self.fields, **({} if keep else {"Connection": "close"})}
        lines = [f"{self.method} {self.path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
        return "\r\n".join([*lines, "", ""]).encode() + self.body


ROOT = Asked("GET", "/")


def _type(body: bytes) -> str:
    """A guess for servers and apps that insist on one."""
    if body[:1] in (b"{", b"["):
        return "application/json"
    printable = all(32 <= byte < 127 for byte in body[:200])
    return "application/x-www-form-urlencoded" if printable else "application/octet-stream"


def request(line: str, content: Callable[[str], bytes]) -> Asked:
    """One line: `PATH`, or `METHOD PATH [BODY]`; a body that begins with @ is the name of a file.

    Args:
        line: without comments.
        content: from the name of such a file to what is in it.

    Raises:
        BadRequests: it is neither, without saying where.
    """
    words = line.split(None, 2)
    if line.startswith("/"):
        if len(words) > 1:
            raise BadRequests(f"a path has no blanks in it: {line!r}; for a body write METHOD PATH BODY")
        return Asked("GET", _path(line))
    method = words[0]
    if method not in METHODS:
        hint = "its answers cannot be told apart under load" if method == "HEAD" else f"one of {', '.join(METHODS)}"
        raise BadRequests(f"{method!r} is neither a path, which begins with /, nor a method to measure ({hint})")
    if len(words) == 1:
        raise BadRequests(f"{method} of what? METHOD PATH [BODY]")
    body = words[2].strip() if len(words) == 3 else ""
    return Asked(method, _path(words[1]), content(body[1:]) if body.startswith("@") else body.encode())


def _path(path: str) -> str:
    if not path.startswith("/"):
        raise BadRequests(f"a path begins with /: {path!r}")
    if not path.isascii() or not path.isprintable():
        raise BadRequests(f"a path is made of plain characters, others are written as %XX: {path!r}")
    return path


def parse(text: str, name: str, content: Callable[[str], bytes]) -> list[Asked]:
    """Read a list, one request a line; empty lines and those that begin with # are none.

    Args:
        text: the list.
        name: of the file, for errors.
        content: as for `request`.

    Raises:
        BadRequests: with file and line number.
    """
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        try:
            found.append(request(line, content))
        except BadRequests as error:
            raise BadRequests(f"{name}:{number}: {error}") from None
    if not found:
        raise BadRequests(f"{name}: there is no request in it")
    return found


def read(path: Path) -> list[Asked]:
    """Read a file of them; files that it names lie beside it.

    Raises:
        BadRequests: it cannot be read, or something in it is wrong.
    """

    def content(name: str) -> bytes:
        try:
            return (path.parent / name).read_bytes()
        except OSError as error:
            raise BadRequests(f"{name}: {(error.strerror or str(error)).lower()}") from None

    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else "this is no text"
        raise BadRequests(f"{path}: {why.lower()}") from None
    return parse(text, str(path), content)
