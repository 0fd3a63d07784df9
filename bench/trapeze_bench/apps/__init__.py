"""Apps to measure with, each of which stands for a kind of app that people run: `trapeze bench --app django`.

Each module says in its docstring what it stands for, and offers `wsgi`, `asgi` or both. None keeps anything
but `database`, whose file its docstring names. (`heavy_django` is none of these: it is what the measurements of deploys
serve.)
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["APPS", "App", "Request"]


class Request(NamedTuple):
    """One that is to be answered with 200."""

    method: str = "GET"
    path: str = "/"
    body: bytes = b""
    content_type: str = ""


class App(NamedTuple):
    """What to serve, and what to ask it."""

    app: str
    """ "module:attribute"."""
    interface: str
    """ "wsgi" or "asgi"."""
    requests: Sequence[Request]
    """To send in turn."""
    stands_for: str
    """In a few words."""
    needs: Sequence[str] = ()
    """Packages that have to be installed, as they are called on the index; none of them is called otherwise when
    imported."""

    @property
    def missing(self) -> list[str]:
        """Those of `needs` that are not installed."""
        return [name for name in self.needs if importlib.util.find_spec(name) is None]


ROOT = (Request(),)
ITEM = b'{"name": "rope", "price": 12.5, "tags": ["red", "long"]}'
VALIDATED = (Request(path="/items/7?limit=3"), Request("POST", "/items", ITEM, "application/json"))
UPLOADED = (Request("POST", "/", bytes(range(256)) * 256, "application/octet-stream"),)


def _both(name: str, module: str, requests: Sequence[Request], stands_for: str, *needs: str) -> dict[str, App]:
    return {
        name: App(f"{module}:wsgi", "wsgi", requests, stands_for, needs),
        f"{name}-asgi": App(f"{module}:asgi", "asgi", requests, stands_for, needs),
    }


HERE = __name__
APPS: dict[str, App] = {
    **_both("hello", "trapeze_bench.hello", ROOT, "no app at all: what the server itself costs"),
    **_both("django", f"{HERE}.django_page.app", ROOT, "a page of a site: middleware, a view, a template", "django"),
    "flask": App(f"{HERE}.flask_json:wsgi", "wsgi", (Request(path="/items?limit=20"),), "a small JSON API", ["flask"]),
    "fastapi": App(
        f"{HERE}.fastapi_items:asgi", "asgi", VALIDATED, "a JSON API that checks what comes and goes", ["fastapi"]
    ),
    **_both("sleep", f"{HERE}.sleeping", ROOT, "an app that waits for others: 50 ms for a database or an API"),
    **_both("cpu", f"{HERE}.computing", ROOT, "an app that computes: some milliseconds of pure Python"),
    **_both("body", f"{HERE}.megabyte", ROOT, "large answers: 1 MB in one piece"),
    **_both("upload", f"{HERE}.upload", UPLOADED, "forms and files: 64 KiB come in, their length goes out"),
    **_both("streaming", f"{HERE}.streaming", ROOT, "an answer whose length nobody knows: 64 chunks of 1 KiB"),
    "sqlite": App(f"{HERE}.database:wsgi", "wsgi", ROOT, "an app with a local database: one read and one write"),
}
"""By the name that `--app` takes."""
