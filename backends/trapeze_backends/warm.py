"""What frameworks import when the first request comes, imported now: a later worker would find another version of it.

Django imports the URLconf, and with it all views, with the first request; also most of what settings name by a dotted
path. anyio (FastAPI, Starlette) imports what it runs on when the first function goes to a thread. Imports inside
functions cannot be known: `warm = "module:function"` is for those.

No database is connected: a connection cannot be shared by the workers that are forked afterwards.
"""

from __future__ import annotations

import sys

from trapeze_backends.contract import Job
from trapeze_backends.loading import call_hook, run_user_code

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

__all__ = ["warm"]

PATHS = (
    "AUTHENTICATION_BACKENDS",
    "AUTH_PASSWORD_VALIDATORS",
    "CACHES",
    "CSRF_FAILURE_VIEW",
    "DATABASE_ROUTERS",
    "DEFAULT_EXCEPTION_REPORTER",
    "DEFAULT_EXCEPTION_REPORTER_FILTER",
    "DEFAULT_FILE_STORAGE",
    "EMAIL_BACKEND",
    "FILE_UPLOAD_HANDLERS",
    "FORM_RENDERER",
    "MESSAGE_STORAGE",
    "PASSWORD_HASHERS",
    "SESSION_ENGINE",
    "SESSION_SERIALIZER",
    "SIGNING_BACKEND",
    "STATICFILES_STORAGE",
    "STORAGES",
    "TEMPLATES",
)
"""Settings of Django that name code by dotted paths, with those in whatever they contain."""


def warm(job: Job, interface: str) -> None:
    """Import what the app will need; then call the function that `warm` names.

    Raises:
        StartError: Django's URLconf cannot be imported (no request could be answered), or the function failed.
    """
    django = sys.modules.get("django.apps")
    if django is not None and django.apps.ready:
        run_user_code("importing the URLconf failed", _urls)
        _django()
    if interface == "asgi" and "anyio" in sys.modules:
        _try("anyio._backends._asyncio")
    if job.warm:
        call_hook("warm", job.warm, job.app_dir)


def _urls() -> None:
    """The views, by all URL patterns, and what answers errors."""
    from django.conf import settings
    from django.urls import get_resolver

    if not getattr(settings, "ROOT_URLCONF", None):
        return
    root = get_resolver()
    waiting = [root]
    while waiting:
        waiting += [pattern for pattern in waiting.pop().url_patterns if hasattr(pattern, "url_patterns")]
    root._populate()
    for status in (400, 403, 404, 500):
        root.resolve_error_handler(status)


def _django() -> None:
    """What settings name. What cannot be imported now fails later, where it is used, as it would without us."""
    from django.conf import settings

    for name in PATHS:
        for path in _texts(getattr(settings, name, None)):
            if not _try(path):
                _try(path.rpartition(".")[0])
    for action in (_engines, _databases, _formats):
        try:
            action()
        except Exception:
            continue


def _engines() -> None:
    from django.template import engines

    for engine in engines.all():  # imports the tag libraries of all apps
        for loader in getattr(getattr(engine, "engine", None), "template_loaders", ()):
            assert loader is not None  # made by being looked at


def _databases() -> None:
    from django.db import connections

    for alias in connections:
        assert connections[alias] is not None  # imports the driver, and connects to nothing


def _formats() -> None:
    from django.utils import formats, translation

    formats.get_format_modules()
    translation.get_language()


def _texts(value: Any) -> Iterator[str]:
    """All dotted paths in a setting."""
    if isinstance(value, str):
        if "." in value and all(part.isidentifier() for part in value.split(".")):
            yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)


def _try(module: str) -> bool:
    if not module or module in sys.modules:
        return bool(module)
    try:
        __import__(module)
    except Exception:
        return False
    return True
