"""Real nginx in front of a Unix socket, for each server; and real apps of Django, Flask and FastAPI."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.nginx import Nginx
from tests.support.workerkit import BACKENDS, Case, WorkerProcess

Make = Callable[..., Any]
Spawn = Callable[..., WorkerProcess]


@pytest.mark.parametrize("case", BACKENDS, ids=str)
@pytest.mark.parametrize("keepalive", [0, 8], ids=["close", "keepalive"])
def test_nginx_in_front_of_a_unix_socket(
    case: Case, keepalive: int, worker: Spawn, unix: Make, nginx: Callable[..., Nginx]
) -> None:
    """Two workers in turn on one socket: the first leaves while requests go on, and none is lost."""
    listener = unix()
    fields = {"app": f"workerapp:{case.interface}", "backend": case.backend, "options": case.options}
    first = worker([listener], **fields)
    first.ready()
    front = nginx(f"unix:{listener.path}", keepalive=keepalive)
    facts = json.loads(front.get("/environ").text)
    if case.interface == "wsgi":
        assert facts["REMOTE_ADDR"] == "127.0.0.1", "nginx is believed, it is on this machine"
        assert facts["HTTP_X_FORWARDED_FOR"] == "127.0.0.1"
        assert facts["SERVER_PORT"]
    body = b"x" * 10_000  # more, and nginx warns of a temporary file
    with front.listener.client() as client:
        assert client.post("/echo", content=body).content == body
        second = worker([listener], **fields)
        second.ready()
        for number in range(60):
            assert client.get("/").text == "hello"
            if number == 20:
                first.process.terminate()
    assert first.wait() == 0, first.output
    second.stop()
    assert second.wait() == 0, second.output
    assert front.errors == ""


DJANGO = """
from django.conf import settings
settings.configure(SECRET_KEY="x", ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], DEBUG=False)
from django.core.{kind} import get_{kind}_application
from django.http import JsonResponse
from django.urls import path

def view(request):
    return JsonResponse({{"host": request.get_host(), "secure": request.is_secure(), "path": request.path}})

urlpatterns = [path("hello", view)]
application = get_{kind}_application()
"""

FLASK = """
from flask import Flask, jsonify, request
application = Flask(__name__)

@application.get("/hello")
def hello():
    return jsonify(host=request.host, secure=request.is_secure, path=request.path)
"""

FASTAPI = """
from fastapi import FastAPI, Request
application = FastAPI()

@application.get("/hello")
async def hello(request: Request):
    return {"host": request.headers["host"], "secure": request.url.scheme == "https", "path": request.url.path}
"""

APPS = {"django": DJANGO.format(kind="wsgi"), "django-asgi": DJANGO.format(kind="asgi"), "flask": FLASK,
        "fastapi": FASTAPI}  # fmt: skip


@pytest.mark.parametrize("name", APPS)
def test_frameworks(name: str, worker: Spawn, unix: Make, nginx: Callable[..., Nginx], run_dir: Path) -> None:
    (run_dir / "site.cfg").touch()
    (run_dir / "shop.py").write_text(APPS[name])
    listener = unix()
    process = worker([listener], app="shop", backend="auto")
    said = process.ready()
    wanted = ("asgi", "uvicorn") if name in ("fastapi", "django-asgi") else ("wsgi", "gunicorn")
    assert (said["interface"], said["backend"]) == wanted
    front = nginx(f"unix:{listener.path}")
    answer = front.get("/hello", headers={"host": "shop.example"})
    assert answer.json() == {"host": "shop.example", "secure": False, "path": "/hello"}
    assert front.get("/nothing").status_code == 404
    process.stop()
    assert process.wait() == 0, process.output
