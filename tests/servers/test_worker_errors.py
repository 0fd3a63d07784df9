"""A worker that cannot start says why in one line, with a hint, and with a traceback only for the app's own code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.workerkit import WorkerProcess

Make = Callable[..., Any]
Spawn = Callable[..., WorkerProcess]

every_backend = pytest.mark.parametrize(
    "backend", ["gunicorn", "uvicorn", "chaussette", "hypercorn", "daphne", "aiohttp", "tornado", "granian"]
)

WSGI = "def app(environ, start_response):\n    start_response('200 OK', []); return [b'{}']\n"


@pytest.fixture
def fails(worker: Spawn, tcp: Make, run_dir: Path) -> Callable[..., dict[str, str]]:
    """Write modules, start a worker, return what it reports; nothing is said on its own stdout or stderr."""

    def start(
        app: str, backend: str = "gunicorn", files: dict[str, str] | None = None, **fields: Any
    ) -> dict[str, str]:
        for name, text in (files or {}).items():
            path = run_dir / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        process = worker([tcp()], app=app, backend=backend, **fields)
        said = process.error()
        assert process.output == ""
        assert "\n" not in said["message"]
        return said

    return start


Fails = Callable[..., dict[str, str]]


@every_backend
def test_no_such_module(fails: Fails, backend: str) -> None:
    said = fails("shop.wsgi:app", backend)
    assert said["message"] == "no module named 'shop'"
    assert said["traceback"] == ""


def test_module_with_a_typo(fails: Fails) -> None:
    assert fails("workerap:app") == {
        "message": "no module named 'workerap'", "traceback": "", "hint": "did you mean 'workerapp'?"
    }  # fmt: skip


def test_no_such_submodule(fails: Fails) -> None:
    said = fails("shop.wsgi:app", files={"shop/__init__.py": ""})
    assert said["message"] == "no module named 'shop.wsgi'"


@every_backend
def test_missing_dependency_of_the_app_shows_its_traceback(fails: Fails, backend: str) -> None:
    said = fails("needy:app", backend, {"needy.py": "import nosuchpackage.sub\n"})
    assert said["message"] == ("importing needy failed: ModuleNotFoundError: No module named 'nosuchpackage'")
    assert "needy.py" in said["traceback"]
    assert "trapeze_backends" not in said["traceback"]
    assert "'nosuchpackage'" in said["hint"]


def test_dependency_that_is_missing_within_the_app_s_own_package(fails: Fails) -> None:
    files = {"shop/__init__.py": "", "shop/wsgi.py": "import shop.models\n"}
    said = fails("shop.wsgi:app", files=files)
    assert said["message"].endswith("No module named 'shop.models'")
    assert "wsgi.py" in said["traceback"]


@every_backend
def test_app_that_raises_on_import(fails: Fails, backend: str) -> None:
    said = fails("broken:app", backend, {"broken.py": "def deep():\n    return 1 / 0\n\ndeep()\n"})
    assert said["message"] == "importing broken failed: ZeroDivisionError: division by zero"
    assert said["traceback"].startswith("Traceback (most recent call last):\n")
    assert "line 4, in <module>" in said["traceback"]
    assert "line 2, in deep" in said["traceback"]
    assert "trapeze" not in said["traceback"]


def test_syntax_error(fails: Fails) -> None:
    said = fails("broken:app", files={"broken.py": "x = 1\nif x\n"})
    assert said["message"] == "importing broken failed: SyntaxError: expected ':'"
    assert 'broken.py", line 2' in said["traceback"]


def test_app_that_exits_on_import(fails: Fails) -> None:
    assert "SystemExit: 7" in fails("quitter:app", files={"quitter.py": "raise SystemExit(7)"})["message"]


def test_long_traceback_is_cut_in_the_middle(fails: Fails) -> None:
    said = fails("broken:app", files={"broken.py": "raise ValueError('x' * 200_000 + 'end')"})
    assert len(said["traceback"]) < 70_000
    assert "bytes left out" in said["traceback"]
    assert said["traceback"].rstrip().endswith("end")


@every_backend
def test_no_such_attribute(fails: Fails, backend: str) -> None:
    said = fails("workerapp:wsgy", backend)
    assert said["message"] == "module workerapp has no attribute 'wsgy'"
    assert said["hint"] == "did you mean 'wsgi'?"


def test_no_such_attribute_of_an_object(fails: Fails) -> None:
    said = fails("shop:one.two.three", files={"shop.py": "class one:\n    class two: pass\n"})
    assert said["message"] == "object shop.one.two has no attribute 'three'"


def test_neither_app_nor_application(fails: Fails) -> None:
    said = fails("shop", files={"shop.py": "def create_app(): ...\n"})
    assert said["message"] == "module shop has neither 'app' nor 'application'"
    assert said["hint"] == 'is it a factory? "shop:create_app()"'


@pytest.mark.parametrize(
    ("app", "hint"),
    [("shop/wsgi.py:app", 'it names a module, not a file: "shop.wsgi:app"'), ("shop:", ""), ("", ""), ("a b:c", "")],
)
def test_text_that_names_nothing(fails: Fails, app: str, hint: str) -> None:
    said = fails(app or "1", files={"shop.py": ""})
    if hint:
        assert said["hint"] == hint
    else:
        assert said["message"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("app = 3", "shop:app is no app: int cannot be called"),
        ("import unittest.mock; app = unittest.mock.Mock()", "cannot tell whether shop:app speaks WSGI or ASGI"),
    ],
)
def test_no_app_at_all(fails: Fails, text: str, message: str) -> None:
    assert fails("shop:app", "auto", {"shop.py": text})["message"] == message


@pytest.mark.parametrize(
    ("app", "backend", "options", "message", "hint"),
    [
        ("wsgi", "uvicorn", {}, "workerapp:wsgi is a WSGI app and uvicorn serves ASGI only", 'backend = "gunicorn"'),
        ("asgi", "aiohttp", {}, "workerapp:asgi is an ASGI app and aiohttp serves aiohttp only", 'backend = "uvicorn"'),
        ("asgi", "tornado", {}, "workerapp:asgi is an ASGI app and tornado serves tornado and WSGI only",
         'backend = "uvicorn"'),
        ("aiohttp", "gunicorn", {}, "workerapp:aiohttp is an aiohttp app and gunicorn serves ASGI and WSGI only",
         'backend = "aiohttp"'),
        ("tornado", "uvicorn", {}, "workerapp:tornado is a tornado app and uvicorn serves ASGI only",
         'backend = "tornado"'),
        ("asgi", "chaussette", {}, "workerapp:asgi is an ASGI app and chaussette serves WSGI only",
         'backend = "uvicorn"'),
        ("asgi", "gunicorn", {"worker_class": "sync"},
         "gunicorn's sync workers serve WSGI apps, workerapp:asgi is ASGI", 'backend = "uvicorn"'),
        ("wsgi", "gunicorn", {"worker_class": "asgi"},
         "gunicorn's asgi workers serve ASGI apps, workerapp:wsgi is WSGI", 'worker_class = "gthread"'),
    ],
)  # fmt: skip
def test_interface_that_the_server_does_not_speak(
    fails: Fails, app: str, backend: str, options: dict[str, Any], message: str, hint: str
) -> None:
    said = fails(f"workerapp:{app}", backend, options=options)
    assert said["message"] == message
    assert hint in said["hint"]


@pytest.mark.parametrize(
    ("backend", "fields", "message"),
    [
        ("gunicorn", {"options": {"bind": "x:1"}}, "options.bind: gunicorn's bind has no place here"),
        ("gunicorn", {"options": {"thread": 1}}, "options.thread: gunicorn has no such setting"),
        ("gunicorn", {"options": {"threads": "many"}}, "options.threads: 'many'"),
        ("gunicorn", {"options": {"threads": 2}, "threads": 3}, "options.threads: set twice"),
        ("gunicorn", {"options": {"worker_class": "nosuch.Class"}}, "gunicorn cannot load the worker class"),
        ("hypercorn", {"options": {"bind": "x:1"}}, "options.bind: hypercorn's bind has no place here"),
        ("hypercorn", {"options": {"worker_class": "trio"}}, "options.worker_class: expected one of asyncio, uvloop"),
        ("hypercorn", {"options": {"h2_max_stream": 1}}, "options.h2_max_stream: hypercorn has no such setting"),
        ("hypercorn", {"options": {"logconfig": "json:no"}}, "options: hypercorn does not take them: FileNotFound"),
        ("hypercorn", {"threads": 3, "app": "workerapp:asgi"}, "threads: hypercorn serves ASGI apps by an event loop"),
        ("daphne", {"options": {"root_path": "/x"}}, "options.root_path: daphne's root_path has no place here"),
        ("daphne", {"options": {"http_time": 1}}, "options.http_time: daphne has no such setting"),
        ("daphne", {"threads": 3}, "threads: daphne serves by an event loop"),
        ("aiohttp", {"options": {"port": 1}}, "options.port: aiohttp's port has no place here"),
        ("aiohttp", {"options": {"max_header": 1}}, "options.max_header: aiohttp has no such setting"),
        ("aiohttp", {"options": {"loop": "trio"}}, "options.loop: expected one of auto, asyncio, uvloop"),
        ("tornado", {"options": {"xheaders": True}}, "options.xheaders: tornado's xheaders has no place here"),
        ("tornado", {"options": {"chunk": 1}}, "options.chunk: tornado has no such setting"),
        ("tornado", {"threads": 3, "app": "workerapp:tornado"}, "threads: tornado serves its own apps by an event"),
        ("gunicorn", {"options": {"config": "nosuch.py"}}, "options.config: cannot read nosuch.py: No such file"),
        ("uvicorn", {"options": {"port": 1}}, "options.port: uvicorn's port has no place here"),
        ("uvicorn", {"options": {"http": "nosuch:x"}, "app": "workerapp:asgi"}, "options: uvicorn does not take them"),
        ("uvicorn", {"threads": 3}, "threads: uvicorn serves by an event loop"),
        ("chaussette", {"options": {"backend": "meinheld"}}, "options.backend: chaussette's meinheld cannot work"),
        ("chaussette", {"options": {"backend": "x"}}, "options.backend: chaussette has no backend 'x'"),
        ("chaussette", {"options": {"backend": "gevent", "x": 1}}, "options.x: chaussette's gevent has no such"),
        ("chaussette", {"options": {"listen": "*:1"}}, "options.listen: waitress's listen has no place here"),
        ("chaussette", {"options": {"backend": "wsgiref"}, "threads": 2}, "threads: chaussette's wsgiref has no"),
        (
            "chaussette",
            {"options": {"backend": "wsgiref"}, "keepalive": 1},
            "keepalive: chaussette's wsgiref closes after each answer",
        ),
        (
            "chaussette",
            {"options": {"backend": "bjoern"}, "keepalive": 1},
            "keepalive: chaussette's bjoern has no such",
        ),
        ("chaussette", {"options": {"backend": "gevent"}, "threads": 1}, "threads: chaussette's gevent has no threads"),
        ("granian", {"options": {"port": 1}}, "options.port: granian's port has no place here"),
        ("granian", {"options": {"backpresure": 1}}, "options.backpresure: granian has no such setting"),
        ("granian", {"options": {"http": 2}}, "options.http: 2 is none of auto, 1, 2"),
        ("granian", {"options": {"runtime_threads": 0}}, "options.runtime_threads: expected a number from 1 on, got 0"),
        ("granian", {"options": {"http1_settings": {"keepalive": 1}}}, "options.http1_settings.keepalive: granian has"),
        ("granian", {"options": {"blocking_threads": 2}, "threads": 3}, "options.blocking_threads: set twice"),
        ("granian", {"threads": 3, "app": "workerapp:asgi"}, "threads: granian serves ASGI apps by an event loop"),
        ("nosuch", {}, "unknown backend 'nosuch'"),
    ],
)
def test_options_that_cannot_be_had(fails: Fails, backend: str, fields: dict[str, Any], message: str) -> None:
    assert fails(fields.pop("app", "workerapp:wsgi"), backend, **fields)["message"].startswith(message)


LIFESPAN = """
async def failing(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})
"""


@pytest.mark.parametrize("backend", ["gunicorn", "uvicorn", "hypercorn", "daphne", "granian"])
def test_lifespan_that_fails(fails: Fails, backend: str) -> None:
    options = {"loglevel": "critical"} if backend == "gunicorn" else {}
    said = fails("life:failing", backend, {"life.py": LIFESPAN}, options=options)
    assert said["message"] == "the app's lifespan start-up failed: no database"


STARLETTE = """
import contextlib
from starlette.applications import Starlette

@contextlib.asynccontextmanager
async def lifespan(app):
    raise ConnectionError("no redis at 127.0.0.1")
    yield

app = Starlette(lifespan=lifespan)
"""


@pytest.mark.parametrize("backend", ["uvicorn", "hypercorn", "daphne", "granian"])
def test_lifespan_of_a_framework_that_raises(fails: Fails, backend: str) -> None:
    said = fails("life:app", backend, {"life.py": STARLETTE})
    assert said["message"] == "the app's lifespan start-up failed: ConnectionError: no redis at 127.0.0.1"
    assert 'life.py", line 7' in said["traceback"]


def test_failed_lifespan_is_not_ready_first(worker: Spawn, tcp: Make, run_dir: Path) -> None:
    (run_dir / "life.py").write_text(LIFESPAN)
    process = worker([tcp()], app="life:failing", backend="uvicorn")
    process.error()
    assert [list(message) for message in process.messages] == [["X_TRAPEZE_ERROR"]]


FACTORIES = """
from workerapp import wsgi, asgi
def make(): return wsgi
def named(name): return {"wsgi": wsgi}[name]
async def later(): return asgi
def nothing(): pass
def raising(): raise RuntimeError("no")
def double(scope):
    async def instance(receive, send): await asgi(scope, receive, send)
    return instance
class Outer:
    class inner:
        app = staticmethod(wsgi)
"""


@pytest.mark.parametrize(
    ("app", "fields", "interface"),
    [
        ("make", {"factory": True}, "wsgi"),
        ("make()", {}, "wsgi"),
        ("make", {}, "wsgi"),
        ("named('wsgi')", {}, "wsgi"),
        ("later()", {}, "asgi"),
        ("later", {"factory": True}, "asgi"),
        ("double", {}, "asgi"),
        ("Outer.inner.app", {}, "wsgi"),
    ],
)
def test_ways_to_name_an_app(
    app: str, fields: dict[str, Any], interface: str, worker: Spawn, tcp: Make, run_dir: Path
) -> None:
    (run_dir / "shop.py").write_text(FACTORIES)
    listener = tcp()
    process = worker([listener], app=f"shop:{app}", backend="auto", **fields)
    assert process.ready()["interface"] == interface
    assert listener.get().text == "hello"
    warned = "looks like a factory" in process.output
    assert warned == (app == "make" and not fields)


def test_default_names(worker: Spawn, tcp: Make, run_dir: Path) -> None:
    (run_dir / "shop.py").write_text("from workerapp import wsgi as application\n")
    process = worker([tcp()], app="shop", backend="auto")
    said = process.ready()
    said.pop("faster", "")  # where granian is installed
    assert said == {"interface": "wsgi", "backend": "gunicorn", "version": process_version("gunicorn")}


def process_version(name: str) -> str:
    from importlib.metadata import version

    return version(name)


@pytest.mark.parametrize(
    ("app", "said"),
    [("nothing()", "the factory shop:nothing() returned None"),
     ("raising()", "the factory shop:raising() failed: RuntimeError: no"),
     ("named(x)", "'shop:named(x)': only literals can be passed")],
)  # fmt: skip
def test_factories_that_fail(app: str, said: str, fails: Fails) -> None:
    assert fails(f"shop:{app}", files={"shop.py": FACTORIES})["message"] == said


def test_by_hand_without_a_supervisor(run_dir: Path) -> None:
    from tests.support.workerkit import run_job

    (run_dir / "broken.py").write_text("1 / 0\n")
    done = run_job({"mode": "serve", "app": "broken", "backend": "gunicorn", "app_dir": str(run_dir)})
    assert done.code == 3
    assert done.err.splitlines()[0] == "Traceback (most recent call last):"
    assert done.err.splitlines()[-1] == "error: importing broken failed: ZeroDivisionError: division by zero"


def test_job_of_another_version() -> None:
    from tests.support.workerkit import run_job

    done = run_job({"version": 2, "mode": "serve"})
    assert done.code == 3
    assert done.err == "error: the job is of version 2, this worker understands 1\n"
    assert json.dumps(done.out) == '""'
