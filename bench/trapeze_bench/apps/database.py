"""Stands for apps with a local database: SQLite in WAL mode, one read and one write for each request.

All workers share one file of 1,000 rows that does not grow. It is in `trapeze-bench-UID` in the temporary directory, or
where TRAPEZE_BENCH_DATABASE says; the next run uses it again. Writers wait for each other, up to 10 s.
"""

from __future__ import annotations

import os
import random
import sqlite3
import tempfile
import threading
from collections.abc import Iterable
from pathlib import Path

from trapeze_bench.apps.plain import Start, WsgiEnviron, start

__all__ = ["wsgi"]

ROWS = 1000
PATIENCE = 10.0
"""Seconds that a writer waits for the others."""


class _Own(threading.local):
    """A connection for each thread, made when it is first needed: none may be carried through a fork."""

    pid = 0
    connection: sqlite3.Connection


_own = _Own()


def _path() -> Path:
    """The file; nobody else may have put anything there."""
    if told := os.environ.get("TRAPEZE_BENCH_DATABASE"):
        return Path(told)
    directory = Path(tempfile.gettempdir(), f"trapeze-bench-{os.getuid()}")
    directory.mkdir(mode=0o700, exist_ok=True)
    found = directory.lstat()
    if found.st_uid != os.getuid() or found.st_mode & 0o077 or directory.is_symlink():
        raise PermissionError(f"{directory} is not a directory of ours alone")
    return directory / "items.sqlite3"


def _connected() -> sqlite3.Connection:
    if _own.pid != os.getpid():
        connection = sqlite3.connect(_path(), timeout=PATIENCE, isolation_level=None)
        connection.execute("pragma journal_mode = wal")
        connection.execute("pragma synchronous = normal")
        connection.execute("begin immediate")  # of several that come first, one fills it
        connection.execute("create table if not exists items (id integer primary key, seen integer not null)")
        rows = ((number,) for number in range(ROWS))
        connection.executemany("insert or ignore into items values (?, 0)", rows)
        connection.execute("commit")
        _own.connection, _own.pid = connection, os.getpid()
    return _own.connection


def wsgi(environ: WsgiEnviron, start_response: Start) -> Iterable[bytes]:
    """Count one item up, say how often another one was seen."""
    connection = _connected()
    written, read = random.randrange(ROWS), random.randrange(ROWS)
    connection.execute("update items set seen = seen + 1 where id = ?", (written,))
    (seen,) = connection.execute("select seen from items where id = ?", (read,)).fetchone()
    body = b"item %d was seen %d times\n" % (read, seen)
    start(start_response, len(body))
    return [body]
