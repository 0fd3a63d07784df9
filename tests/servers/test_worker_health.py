"""The health request: asked of the app itself before the worker accepts; a wrong answer is a failed start."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.server import Listener
from tests.support.workerkit import BACKENDS, Case, Connection, WorkerProcess

Make = Callable[..., Any]
Spawn = Callable[..., WorkerProcess]
Connect = Callable[[Listener], Connection]

every_server = pytest.mark.parametrize("case", BACKENDS, ids=str)

APP = '''
import asyncio, io, json, os, sys, time
from wsgiref.validate import validator

seen = []
state_seen = []

def _wsgi(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/seen":
        body = json.dumps(seen).encode()
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
        return [body]
    seen.append({key: value for key, value in environ.items() if isinstance(value, str)})
    if path == "/raises":
        raise LookupError("no such shelf")
    if path == "/hangs":
        time.sleep(60)
    if path == "/spins":
        while True:
            pass
    status = path[1:] if path[1:].isdigit() else "200"
    start_response(f"{status} Word", [("Content-Type", "text/plain")] if status != "204" else [])
    return [b"first line\\n", b"second line\\n"]

valid = validator(_wsgi)

def wsgi(environ, start_response):
    """Ours must be right; eventlet's, for one, is not."""
    return (_wsgi if environ["PATH_INFO"] == "/seen" else valid)(environ, start_response)

async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        scope["state"]["shelf"] = "full"
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    path = scope["path"]
    body = b"first line\\nsecond line\\n"
    if path == "/seen":
        body = json.dumps(seen).encode()
    else:
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        seen.append({"PATH_INFO": path, "QUERY_STRING": scope["query_string"].decode(), "state": scope.get("state"),
                     "HTTP_HOST": headers["host"], "HTTP_X_THING": headers.get("x-thing", ""),
                     "SERVER_NAME": scope["server"][0], "wsgi.url_scheme": scope["scheme"]})
    if path == "/raises":
        raise LookupError("no such shelf")
    if path == "/hangs":
        await asyncio.sleep(60)
    if path == "/spins":
        while True:
            pass
    status = int(path[1:]) if path[1:].isdigit() else 200
    await send({"type": "http.response.start", "status": status,
                "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})

def __getattr__(name):
    import nativeapp
    return nativeapp.make(name, asgi)

async def no_lifespan(scope, receive, send):
    assert scope["type"] == "http"
    await asgi(scope, receive, send)

async def answers_and_raises(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 500, "headers": []})
    await send({"type": "http.response.body", "body": b"sorry"})
    raise LookupError("no such shelf")
'''


def start(worker: Spawn, case: Case, tcp: Make, run_dir: Path, path: str, **health: Any) -> WorkerProcess:
    """Start the app above with a health request."""
    (run_dir / "healthapp.py").write_text(APP)
    asked = {"path": path, "host": "localhost", "headers": {}, "status": None, "timeout": 10.0, **health}
    app = health.pop("app", f"healthapp:{case.interface}")
    asked.pop("app", None)
    return worker([tcp()], app=app, interface=case.interface, backend=case.backend, options=case.options, health=asked)


@every_server
def test_it_is_asked_once_before_the_worker_is_ready(
    case: Case, worker: Spawn, connect: Connect, tcp: Make, run_dir: Path
) -> None:
    process = start(worker, case, tcp, run_dir, "/a%20b?c=d", host="shop.example:81", headers={"X-Thing": "one"})
    process.ready()
    seen = json.loads(connect(process.listeners[0]).get("/seen", Connection="close")[2])
    assert len(seen) == 1
    found = seen[0]
    assert (found["PATH_INFO"], found["QUERY_STRING"]) == ("/a b", "c=d")
    assert (found["HTTP_HOST"], found["HTTP_X_THING"]) == ("shop.example:81", "one")
    if case.interface in ("wsgi", "asgi"):  # others have no name of the server
        assert found["SERVER_NAME"] == "shop.example"
    assert found.get("wsgi.url_scheme", "http") == "http"
    assert "AssertionError" not in process.output  # what wsgiref.validate says of a wrong environ
    if case.interface == "asgi":
        assert found["state"] == {"shelf": "full"}


@every_server
def test_a_wrong_status_is_a_failed_start(case: Case, worker: Spawn, tcp: Make, run_dir: Path) -> None:
    said = start(worker, case, tcp, run_dir, "/500").error()
    assert said["message"] == "health /500 answered 500"
    assert said["traceback"] == "first line\nsecond line\n"


@every_server
def test_an_error_is_a_failed_start_with_the_traceback(case: Case, worker: Spawn, tcp: Make, run_dir: Path) -> None:
    said = start(worker, case, tcp, run_dir, "/raises").error()
    assert said["message"] == "health /raises failed: LookupError: no such shelf"
    assert "healthapp.py" in said["traceback"] and 'raise LookupError("no such shelf")' in said["traceback"]


@every_server
@pytest.mark.parametrize("path", ["/hangs", "/spins"])
def test_no_answer_in_time_is_a_failed_start(case: Case, path: str, worker: Spawn, tcp: Make, run_dir: Path) -> None:
    said = start(worker, case, tcp, run_dir, path, timeout=0.3).error()
    assert said["message"] == f"health {path} did not answer in 0.3 s"
    assert "healthapp.py" in said["traceback"], "where it was"


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("/204", 204, ""),
        ("/301", None, ""),
        ("/200", 204, "health /200 answered 200, not 204"),
        ("/404", 404, ""),
        ("/404", None, "health /404 answered 404"),
    ],
)
@pytest.mark.parametrize("interface", ["wsgi", "asgi"])
def test_which_status_is_right(
    path: str, status: int | None, message: str, interface: str, worker: Spawn, tcp: Make, run_dir: Path
) -> None:
    case = Case("plain", "gunicorn", {}, interface=interface)
    process = start(worker, case, tcp, run_dir, path, status=status)
    if message:
        assert process.error()["message"] == message
    else:
        process.ready()


@pytest.mark.parametrize("case", [case for case in BACKENDS if case.interface == "asgi"], ids=str)
def test_asgi_apps_without_a_lifespan_are_asked_too(case: Case, worker: Spawn, tcp: Make, run_dir: Path) -> None:
    said = start(worker, case, tcp, run_dir, "/500", app="healthapp:no_lifespan").error()
    assert said["message"] == "health /500 answered 500"


def test_gunicorn_without_lifespan_asks_too(worker: Spawn, tcp: Make, run_dir: Path) -> None:
    case = Case("off", "gunicorn", {"asgi_lifespan": "off"}, interface="asgi")
    assert start(worker, case, tcp, run_dir, "/500").error()["message"] == "health /500 answered 500"


def test_what_is_raised_after_the_answer_is_the_reason(worker: Spawn, tcp: Make, run_dir: Path) -> None:
    """As Starlette does with an error: answer 500 first, then raise."""
    case = Case("starlette", "uvicorn", {}, interface="asgi")
    said = start(worker, case, tcp, run_dir, "/x", app="healthapp:answers_and_raises").error()
    assert said["message"] == "health /x answered 500"
    assert 'raise LookupError("no such shelf")' in said["traceback"]


FLASK = """
from flask import Flask
app = Flask(__name__)
@app.route("/healthz")
def healthz():
    raise LookupError("no such shelf")
"""

DJANGO = """
import django
from django.conf import settings
settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["shop.example"], SECRET_KEY="x", LOGGING_CONFIG=None,
                   MIDDLEWARE=["django.middleware.common.CommonMiddleware"])
django.setup()
from django.urls import path
from django.core.wsgi import get_wsgi_application
from django.core.asgi import get_asgi_application
def healthz(request):
    raise LookupError("no such shelf")
urlpatterns = [path("healthz", healthz)]
wsgi = get_wsgi_application()
asgi = get_asgi_application()
"""


@pytest.mark.parametrize("app", ["flaskapp:app", "djangoapp:wsgi", "djangoapp:asgi"])
def test_the_traceback_is_what_the_framework_made_a_500_of(app: str, worker: Spawn, tcp: Make, run_dir: Path) -> None:
    (run_dir / "flaskapp.py").write_text(FLASK)
    (run_dir / "djangoapp.py").write_text(DJANGO)
    health = {"path": "/healthz", "host": "shop.example", "timeout": 10.0}
    said = worker([tcp()], app=app, health=health).error()
    assert said["message"] == "health /healthz answered 500"
    assert 'raise LookupError("no such shelf")' in said["traceback"]


def test_a_refused_host_has_a_hint(worker: Spawn, tcp: Make, run_dir: Path) -> None:
    (run_dir / "djangoapp.py").write_text(DJANGO)
    said = worker([tcp()], app="djangoapp:wsgi", health={"path": "/healthz", "host": "localhost"}).error()
    assert said["message"] == "health /healthz answered 400", said
    assert "health.host" in said["hint"]


def test_a_backend_that_cannot_ask_is_an_error(worker: Spawn, tcp: Make, run_dir: Path) -> None:
    """Never a silent difference: uvicorn's class for gunicorn starts the lifespan where we cannot see it."""
    (run_dir / "healthapp.py").write_text(APP)
    pytest.importorskip("uvicorn.workers")
    said = worker(
        [tcp()],
        app="healthapp:asgi",
        backend="gunicorn",
        options={"worker_class": "uvicorn.workers.UvicornWorker"},
        health={"path": "/200"},
    ).error()
    assert said["message"] == "health: gunicorn cannot ask the app before it accepts"
