"""The environment a service's processes get, and the files of NAME=value lines it is read from."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from trapeze.errors import ConfigError, Problem
from trapeze.overlay import PREFIXES
from trapeze.spec import ServiceSpec

__all__ = ["OURS", "read_env_file", "readable_by_us", "service_environment", "unreadable"]

OURS = frozenset(
    {
        "NOTIFY_SOCKET",
        "LISTEN_FDS",
        "LISTEN_PID",
        "LISTEN_PIDFDID",
        "LISTEN_FDNAMES",
        "WATCHDOG_USEC",
        "WATCHDOG_PID",
        "TRAPEZE_SERVICE",
        "TRAPEZE_INDEX",
        "TRAPEZE_GENERATION",
        "TRAPEZE_NOTIFY_FD",
    }
)
"""Set for each process by the supervisor, or meant for the supervisor alone: never passed on, never configured."""

_LINE = r"""[ \t]*(?:
        (?:\#[^\n]*)?                                           # nothing, or a comment
      | (?:export[ \t]+)?(?P<name>[A-Za-z_][A-Za-z0-9_.]*)[ \t]*=[ \t]*
        (?: '(?P<single>[^']*)'[ \t]*(?:\#[^\n]*)?
          | "(?P<double>(?:[^"\\]|\\.)*)"[ \t]*(?:\#[^\n]*)?
          | (?P<plain>(?!['"])[^\n]*)
        )
    )(?:\n|\Z)"""
_COMMENT = re.compile(r"(?:^|[ \t]+)#.*")
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "\n": ""}
_OTHERS_WRITE = 0o002
_GROUP_WRITES = 0o020


def read_env_file(text: str, origin: str = "env file") -> dict[str, str]:
    """Names and values of `NAME=value` lines; the last of two equal names counts.

    `export ` before a name is allowed, `#` begins a comment (in a value: after a blank), single quotes keep everything
    as it is, double quotes know \\n \\r \\t \\" \\\\ and \\$; both may span lines. Nothing is expanded.
    ConfigError lists every line that is none of this.
    """
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    found: dict[str, str] = {}
    problems: list[Problem] = []
    pattern = re.compile(_LINE, re.VERBOSE | re.DOTALL)  # by whoever has such a file: a start need not wait for it
    at = 0
    while at < len(text):
        match = pattern.match(text, at)
        line = text.count("\n", 0, at) + 1
        if match is None:
            end = text.find("\n", at)
            problems.append(Problem(f"line {line}", *_why_not(text[at : end if end >= 0 else len(text)]), origin))
            at = end + 1 if end >= 0 else len(text)
            continue
        if match["name"] is not None:
            found[match["name"]] = value = _value(match)
            if "\0" in value:
                problems.append(Problem(f"line {line}", "the value contains a NUL character", "", origin))
        at = match.end()
    if problems:
        raise ConfigError(problems)
    return found


def _value(match: re.Match[str]) -> str:
    if match["single"] is not None:
        return match["single"]
    if match["double"] is not None:
        return _ESCAPE.sub(_unescape, match["double"])
    return _COMMENT.sub("", match["plain"]).strip()


def _unescape(match: re.Match[str]) -> str:
    letter = match[1]
    if letter in _ESCAPES:
        return _ESCAPES[letter]
    return letter if letter in "\"\\$'`" else match[0]


def _why_not(line: str) -> tuple[str, str]:
    """Reason and hint for a line that is no assignment. Never shows the line: it may hold a secret."""
    name, sign, value = line.partition("=")
    if not sign:
        return "is no NAME=value", "comments begin with #"
    if not re.fullmatch(r"\s*(export\s+)?[A-Za-z_][A-Za-z0-9_.]*\s*", name):
        return "not a valid variable name before the =", "letters, digits, _ and ., no digit first"
    quote = value.lstrip()[:1]
    return f"the value begins with {quote} but does not end with it", "after the closing quote comes only a comment"


def readable_by_us(descriptor: int, uid: int, sudo_uid: str | None = None) -> tuple[str, str] | None:
    """Root reads no file that others can write: (reason, hint) when it must not, else None.

    The user who called sudo may own the file: he could become root anyway.
    """
    if uid != 0:
        return None
    status = os.fstat(descriptor)
    if status.st_mode & _OTHERS_WRITE:
        return "refused: root does not read a file that everybody can write", "chmod o-w it"
    if status.st_mode & _GROUP_WRITES and status.st_gid != 0:
        return f"refused: root does not read a file that group {status.st_gid} can write", "chmod g-w it"
    if status.st_uid != 0 and str(status.st_uid) != sudo_uid:
        return f"refused: root does not read a file that belongs to user {status.st_uid}", "chown it to root"
    return None


def unreadable(error: OSError, shown: str) -> Problem:
    """A file that could not be opened or read, as a problem."""
    words = os.strerror(error.errno or 0)
    return Problem("", f"cannot be read: {words[:1].lower()}{words[1:]}", "", shown)


def service_environment(spec: ServiceSpec, directory: str, environ: Mapping[str, str]) -> dict[str, str]:
    """What the processes of a service get: ours, then the user's, the venv's, the env files', and `env`.

    The env files are read now, relative to `directory`. ConfigError if one cannot be read or has wrong lines.
    """
    made = {name: value for name, value in environ.items() if name not in OURS and not name.startswith(PREFIXES)}
    if spec.user is not None:
        made.update(_of_user(spec.user))
    if spec.venv is not None:
        venv = os.path.join(directory, spec.venv)
        made["VIRTUAL_ENV"] = venv
        made["PATH"] = f"{venv}/bin:{made.get('PATH') or os.defpath}"
        made.pop("PYTHONHOME", None)
    problems: list[Problem] = []
    for name in [spec.env_file] if isinstance(spec.env_file, str) else spec.env_file:
        try:
            made.update(_env_file(os.path.join(directory, name), environ.get("SUDO_UID")))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    for name, value in spec.env.items():
        made[name] = str(value).lower() if isinstance(value, bool) else str(value)
    return {name: value for name, value in made.items() if name not in OURS}


def _env_file(path: str, sudo_uid: str | None) -> dict[str, str]:
    try:
        with open(path, encoding="utf-8", newline="") as file:
            refused = readable_by_us(file.fileno(), os.geteuid(), sudo_uid)
            text = "" if refused else file.read()
    except OSError as error:
        raise ConfigError([unreadable(error, path)]) from None
    except UnicodeDecodeError:
        raise ConfigError([Problem("", "is not UTF-8 text", "", path)]) from None
    if refused:
        raise ConfigError([Problem("", *refused, path)])
    return read_env_file(text, path)


def _of_user(user: str) -> dict[str, str]:
    """HOME, USER and LOGNAME; for a number that no user has: the number, and / as home."""
    import pwd

    try:
        entry = pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
    except KeyError:
        return {"HOME": "/", "USER": user, "LOGNAME": user}
    return {"HOME": entry.pw_dir, "USER": entry.pw_name, "LOGNAME": entry.pw_name}
