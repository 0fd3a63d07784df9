"""Apps to measure with, each of which stands for a kind of app that people run: `trapeze bench --app django`.

Each module says in its docstring what it stands for, and offers `wsgi`, `asgi` or both. None keeps anything
but `database`, whose file its docstring names. (`heavy_django` is none of these: it is what the measurements of deploys
serve.)
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import NamedTuple

from trapeze_bench.requestlist import ROOT, Asked

__all__ = ["APPS", "App", "described"]


class App(NamedTuple):
    """What to serve, and what to ask it."""

    app: str
    """ "module:attribute"."""
    interface: str
    """ "wsgi" or "asgi"."""
    requests: Sequence[Asked]
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


HOME = (ROOT,)
ITEM = b'{"name": "rope", "price": 12.5, "tags": ["red", "long"]}'
VALIDATED = (Asked("GET", "/items/7?limit=3"), Asked("POST", "/items", ITEM))
UPLOADED = (Asked("POST", "/", bytes(range(256)) * 256),)


def _both(name: str, module: str, requests: Sequence[Asked], stands_for: str, *needs: str) -> dict[str, App]:
    return {
        name: App(f"{module}:wsgi", "wsgi", requests, stands_for, needs),
        f"{name}-asgi": App(f"{module}:asgi", "asgi", requests, stands_for, needs),
    }


HERE = __name__
APPS: dict[str, App] = {
    **_both("hello", "trapeze_bench.hello", HOME, "no app at all: what the server itself costs"),
    **_both("django", f"{HERE}.django_page.app", HOME, "a page of a site: middleware, a view, a template", "django"),
    "flask": App(f"{HERE}.flask_json:wsgi", "wsgi", (Asked("GET", "/items?limit=20"),), "a small JSON API", ["flask"]),
    "fastapi": App(
        f"{HERE}.fastapi_items:asgi", "asgi", VALIDATED, "a JSON API that checks what comes and goes", ["fastapi"]
    ),
    **_both("sleep", f"{HERE}.sleeping", HOME, "an app that waits for others: 50 ms for a database or an API"),
    **_both("cpu", f"{HERE}.computing", HOME, "an app that computes: some milliseconds of pure Python"),
    **_both("body", f"{HERE}.megabyte", HOME, "large answers: 1 MB in one piece"),
    **_both("upload", f"{HERE}.upload", UPLOADED, "forms and files: 64 KiB come in, their length goes out"),
    **_both("streaming", f"{HERE}.streaming", HOME, "an answer whose length nobody knows: 64 chunks of 1 KiB"),
    "sqlite": App(f"{HERE}.database:wsgi", "wsgi", HOME, "an app with a local database: one read and one write"),
}
"""By the name that `--app` takes."""


def described() -> list[str]:
    """A line for each: its name, what it stands for, and the line that installs what it needs and is not there."""
    wide = max(map(len, APPS))
    lines = []
    for name, each in APPS.items():
        line = f"{name:<{wide}}  {each.stands_for}"
        lines.append(f"{line} (pip install {' '.join(each.missing)})" if each.missing else line)
    return lines
