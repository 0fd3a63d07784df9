"""A Django site in one file that is slow to import and large: 0.5 s of processor time, some 80 MB of Python objects.

`/` answers with the version of the code and the pid, after a look at one of the objects; `/collect` does a full garbage
collection before. `deploys.py` serves a copy of this file and changes VERSION in it.
"""

from __future__ import annotations

import time

BEGAN = time.process_time()

import gc  # noqa: E402
import itertools  # noqa: E402
import os  # noqa: E402

from django.conf import settings  # noqa: E402
from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.http import HttpRequest, HttpResponse  # noqa: E402
from django.urls import path  # noqa: E402

__all__ = ["application", "urlpatterns"]

VERSION = "one"
IMPORT = 0.5
"""Seconds of processor time that the import takes altogether, Django's own included."""
ITEMS = 100_000
"""Some 800 bytes each."""

settings.configure(
    ALLOWED_HOSTS=["*"],
    INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "django.contrib.sessions"],
    MIDDLEWARE=[
        "django.middleware.security.SecurityMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.middleware.clickjacking.XFrameOptionsMiddleware",
    ],
    ROOT_URLCONF=__name__,
    SECRET_KEY="of a benchmark",
    USE_TZ=True,
)

CATALOGUE = [{"id": n, "name": f"item {n}", "price": n * 1.19, "text": f"{n} " * 60} for n in range(ITEMS)]
_numbers = itertools.count()


def index(request: HttpRequest) -> HttpResponse:
    """Look at one item, all over the catalogue in the course of time, and say who answers."""
    item = CATALOGUE[next(_numbers) * 7919 % ITEMS]
    return HttpResponse(f"{VERSION} {item['name']} from {os.getpid()}\n", content_type="text/plain")


def collect(request: HttpRequest) -> HttpResponse:
    """One full collection in this worker."""
    gc.collect()
    return index(request)


urlpatterns = [path("", index), path("collect", collect)]
application = get_wsgi_application()

while time.process_time() - BEGAN < IMPORT:
    pass
