"""What is served: the app, and with how many workers. The same for every server of a comparison."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["HELLO", "Served"]


@dataclass(frozen=True)
class Served:
    """An app, as every server of a comparison is to serve it."""

    app: str
    """ "module:attribute"."""
    interface: str
    """ "wsgi", "asgi", "aiohttp" or "tornado"."""
    workers: int = 4
    threads: int | None = None
    """Of servers that have some; None: the server's own default, or trapeze's where the server has none."""
    app_dir: Path | None = None
    """Where the module is; None: where the servers run."""
    factory: bool = False
    """What the name stands for is called without arguments and returns the app."""


HELLO = {
    "wsgi": Served("trapeze_bench.hello:wsgi", "wsgi"),
    "asgi": Served("trapeze_bench.hello:asgi", "asgi"),
    "aiohttp": Served("trapeze_bench.hello_aiohttp:app", "aiohttp"),
}
"""One line that says which worker answered, by interface."""
