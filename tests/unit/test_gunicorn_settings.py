"""What gunicorn's worker classes need beside gunicorn."""

from __future__ import annotations

import sys

import pytest
from trapeze_backends import gunicorn_settings, installed
from trapeze_backends.gunicorn_settings import what_it_lacks


@pytest.mark.parametrize(
    ("name", "missing", "reason", "hint"),
    [
        ("gevent", "gevent", f"gevent is not installed in {sys.prefix}", "pip install gevent"),
        ("tornado", "tornado", f"tornado is not installed in {sys.prefix}", "pip install tornado"),
        (
            "gevent",
            "packaging",
            f"gunicorn's gevent workers need packaging, which is not installed in {sys.prefix}",
            "pip install packaging",
        ),
    ],
)
def test_packages(name: str, missing: str, reason: str, hint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """gunicorn 27 imports packaging in its gevent class, and depends on it in an extra only."""
    monkeypatch.setattr(installed, "is_installed", lambda package: package != missing)

    assert what_it_lacks(name) == (reason, hint)


def test_packaging_where_it_is_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installed, "is_installed", lambda package: package != "packaging")
    monkeypatch.setattr(gunicorn_settings, "_mentions_packaging", lambda: False)

    assert what_it_lacks("gevent") is None


@pytest.mark.parametrize("name", ["sync", "gthread", "#gthread", "asgi", "somebody.elses.Worker", "egg:other#one"])
def test_nothing(name: str) -> None:
    assert what_it_lacks(name) is None
