"""The program nginx: which one there is, what it says of a configuration, and files that it reads.

Whatever nginx finds wrong is shown with the line that it means.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
from collections.abc import Sequence

from trapeze.errors import TrapezeError

__all__ = [
    "Verdict",
    "find",
    "has_ipv6",
    "replace_file",
    "run",
    "test",
    "types_file",
    "version",
    "with_lines",
    "worker_user",
]

_SBIN = "/usr/sbin:/usr/local/sbin:/usr/local/nginx/sbin:/opt/nginx/sbin:/sbin"
_TYPES = ("/etc/nginx/mime.types", "/usr/local/nginx/conf/mime.types", "/usr/local/etc/nginx/mime.types")
_USERS = ("www-data", "nginx", "http", "nobody")
_PLACE = re.compile(r" in (?P<file>/[^\0\n]*?):(?P<line>[0-9]+)$", re.MULTILINE)
_LISTEN = re.compile(r"^(?P<indent>\s*listen )(?P<address>[^\s;]+)", re.MULTILINE)
_STDERR = (1, 19, 5)
"""From this version on `-e stderr`: before it, an ordinary user's nginx complains that it cannot open its own log."""
PATIENCE = 30.0
"""Seconds that nginx gets to judge a configuration; names in it are looked up."""


def find(program: str | None) -> str | None:
    """Return the path of nginx: the one that is named, or what is on the PATH or where systems put it."""
    import shutil

    name = program or "nginx"
    return shutil.which(name) or shutil.which(name, path=_SBIN)


def version(program: str | None) -> tuple[int, ...]:
    """Return the version of an nginx; empty if that is not to be had."""
    if program is None:
        return ()
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        said = subprocess.run([program, "-v"], capture_output=True, text=True, check=False, timeout=PATIENCE).stderr
        if found := re.search(r"/(\d+)\.(\d+)\.(\d+)", said):
            return tuple(int(number) for number in found.groups())
    return ()


def has_ipv6() -> bool:
    """Has this machine IPv6? Where it is switched off, nginx refuses to start if it shall listen there."""
    return socket.has_ipv6 and os.path.exists("/proc/net/if_inet6")


def types_file() -> str | None:
    """Return the file with nginx's table of MIME types, if there is one."""
    return next((path for path in _TYPES if os.access(path, os.R_OK)), None)


def worker_user() -> str | None:
    """Return who nginx's workers are, if nothing says it: the user that the system has for it."""
    import pwd

    names = {entry.pw_name for entry in pwd.getpwall()}
    return next((name for name in _USERS if name in names), None)


class Verdict:
    """What nginx said of a configuration."""

    def __init__(self, code: int, said: str, printed: str = "") -> None:
        self.good = code == 0
        self.said = said
        """Its complaints."""
        self.printed = printed
        """The configuration, of `-T`."""


def run(program: str, *words: str) -> Verdict:
    """Run nginx with these words and wait for it.

    Raises:
        TrapezeError: it cannot be run, or does not end.
    """
    early = ["-e", "stderr"] if version(program) >= _STDERR else []
    try:
        done = subprocess.run(
            [program, *early, *words], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
            timeout=PATIENCE, errors="replace",
        )  # fmt: skip
    except OSError as error:
        raise TrapezeError(f"{program} cannot be run: {os.strerror(error.errno or 0).lower()}") from None
    except subprocess.TimeoutExpired:
        raise TrapezeError(f"{program} {' '.join(words)} has not ended in {PATIENCE:g} s") from None
    return Verdict(done.returncode, done.stderr, done.stdout)


def test(program: str, text: str, wrapper: str, name: str) -> Verdict:
    """Have nginx judge a text for its http block, in a directory of its own.

    Args:
        program: of nginx.
        text: what is judged.
        wrapper: a configuration that includes `{file}` and writes below `{directory}`.
        name: what the text is called in what nginx says.

    Raises:
        TrapezeError: nginx cannot be run.
    """
    import tempfile

    with tempfile.TemporaryDirectory(prefix="trapeze-nginx-") as directory:
        os.chmod(directory, 0o755)
        file, main = f"{directory}/site.conf", f"{directory}/nginx.conf"
        _write(file, _bindable(text, directory))
        _write(main, wrapper.replace("{file}", file).replace("{directory}", directory))
        verdict = run(program, "-t", "-p", directory, "-c", main)
        said = [line for line in verdict.said.splitlines() if not _of_wrapper(line, main)]
        verdict.said = with_lines("\n".join(said), {file: text}).replace(file, name)
        return verdict


def _of_wrapper(line: str, main: str) -> bool:
    """That of the wrapper nobody asked for."""
    return line.startswith(("nginx: the configuration file " + main, "nginx: configuration file " + main))


def _bindable(text: str, directory: str) -> str:
    """nginx binds what it tests: what we may not bind ourselves (port 80) becomes a socket in the directory."""
    first = _first_free_port()
    numbers: dict[str, int] = {}

    def other(found: re.Match[str]) -> str:
        address = found["address"]
        port = address.rpartition(":")[2]
        if not port.isdigit() or int(port) >= first:
            return found[0]
        return f"{found['indent']}unix:{directory}/{numbers.setdefault(address, len(numbers))}.sock"

    return _LISTEN.sub(other, text)


def _first_free_port() -> int:
    """The lowest port that everybody may bind; 0 for root."""
    if os.geteuid() == 0:
        return 0
    try:
        with open("/proc/sys/net/ipv4/ip_unprivileged_port_start", encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 1024


def with_lines(said: str, texts: dict[str, str] | None = None) -> str:
    """Put the line that is meant below each complaint of nginx. `texts`: files whose text is known."""
    found = []
    for line in said.splitlines():
        found.append(line)
        place = _PLACE.search(line)
        if place is None:
            continue
        try:
            text = (texts or {}).get(place["file"]) or _read(place["file"])
            meant = text.splitlines()[int(place["line"]) - 1]
        except (OSError, IndexError):
            continue
        found.append(f"    {place['line']} | {meant}")
    return "\n".join(found)


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def replace_file(path: str, text: str, mode: int = 0o644, owner: Sequence[int] = ()) -> None:
    """Write a file so that nobody ever sees half of it; what it was is kept if that fails. OSError if it does."""
    import tempfile

    whole = os.path.realpath(path)  # a link in sites-enabled/ stays one
    handle, temporary = tempfile.mkstemp(prefix=f".{os.path.basename(whole)}.", dir=os.path.dirname(whole))
    try:
        with open(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(handle)
        os.chmod(temporary, mode)
        if owner:
            os.chown(temporary, *owner)
        os.rename(temporary, whole)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
