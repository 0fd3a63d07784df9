"""Apps that run on another Python than trapeze, or in an environment of their own in which trapeze is not installed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.server import run
from tests.support.site import Site
from tests.support.venvs import interpreter, make_venv, put_packages

OURS = f"{sys.version_info[0]}.{sys.version_info[1]}"
NEW_ENOUGH = [version for version in ("3.10", "3.11", "3.12", "3.13", "3.14") if version != OURS]
TOO_OLD = ["3.9", "3.8", "3.7", "3.6", "2.7"]

APP = """
import importlib.util, json, sys

CODE = "old"

def wsgi(environ, start_response):
    there = [name for name in ("trapeze", "trapeze_backends", "msgspec", "uvicorn") if importlib.util.find_spec(name)]
    facts = {"python": "%d.%d" % sys.version_info[:2], "prefix": sys.prefix, "there": there, "code": CODE}
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(facts).encode()]
"""

FLASK = """
from flask import Flask
app = Flask(__name__)

def has(name):
    try:
        __import__(name)
    except ImportError:
        return False
    return True

@app.route("/")
def index():
    return {"code": "old", "there": [name for name in ("trapeze", "msgspec", "psutil", "h11", "uvicorn") if has(name)]}
"""


@pytest.fixture(scope="session")
def pure(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with gunicorn in it, which is all Python and runs on any."""
    directory = tmp_path_factory.mktemp("pure")
    put_packages(directory, "gunicorn")
    return directory


@pytest.fixture(scope="session")
def flask_venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with gunicorn and Flask in it, and nothing else."""
    return make_venv(tmp_path_factory.mktemp("flask") / ".venv", "gunicorn", "flask")


def facts(server: Any) -> dict[str, Any]:
    """What the app says of itself."""
    found: dict[str, Any] = server.get("/").json()
    return found


@pytest.mark.parametrize(("version", "preload"), [*((each, '"auto"') for each in NEW_ENOUGH), ("3.10", "false")])
def test_workers_of_another_python(version: str, preload: str, site: Site, pure: Path) -> None:
    """Forked from a zygote that is of that Python as well, or each spawned."""
    python = interpreter(version)
    site.write("looks.py", APP)
    config = f"""
        [sockets.web]
        bind = "{{bind}}"
        [services.web]
        app = "looks:wsgi"
        python = "{python}"
        env = {{ PYTHONPATH = "{pure}" }}
        workers = 2
        preload = {preload}
        """
    listener = site.tcp()
    server = site.up(config.replace("{bind}", listener.bind), listeners=[listener]).ready()
    found = facts(server)
    assert (found["python"], found["code"]) == (version, "old")
    assert "trapeze" not in found["there"] and "uvicorn" not in found["there"]
    assert server.service()["pinned"] is ("auto" in preload)
    site.write("looks.py", APP.replace('"old"', '"new"'))
    assert server.ctl("reload", "web").code == 0
    assert facts(server)["code"] == "new"
    assert server.stop() == 0


@pytest.mark.parametrize("version", [*NEW_ENOUGH[:1], *NEW_ENOUGH[-2:-1]])
def test_serve_with_another_python(version: str, site: Site, pure: Path) -> None:
    python = interpreter(version)
    site.write("looks.py", APP)
    link = site.directory / "bin"
    link.mkdir()
    (link / "some-python").symlink_to(python)
    path = f"{link}:/usr/bin:/bin"
    server = site.serve(
        "looks:wsgi", "--python", "some-python", listeners=[site.tcp()], env={"PYTHONPATH": str(pure), "PATH": path}
    ).ready()
    assert facts(server)["python"] == version
    assert server.stop() == 0


@pytest.mark.parametrize("version", TOO_OLD)
def test_python_that_is_too_old(version: str, site: Site, pure: Path) -> None:
    python = interpreter(version)
    site.write("looks.py", APP)
    server = site.serve("looks:wsgi", "--python", python, listeners=[site.tcp()])
    server.expect_error("is too old")
    assert server.wait() == 2
    assert f"error: services.web.python: Python {version}." in server.stderr
    assert "is too old, workers need 3.10 or newer" in server.stderr
    assert server.stderr.count("error:") == 1
    listed = run("backends", "--python", python)
    assert listed.code == 1
    assert f"cannot list its backends: Python {version}." in listed.err


@pytest.mark.parametrize(
    ("python", "reason"),
    [
        ("/no/such/python", "services.web.python: /no/such/python: there is no such program"),
        ("no-such-python", 'services.web.python: the program "no-such-python" is not on the PATH'),
        ("./plain", "plain: may not be executed"),
        ("./nonsense", "services.web.python: cannot run "),
        ("/usr", "services.web.python: /usr: is a directory, not a program"),
        ("/bin/true", "services.web.python: the check has said nothing, is its interpreter a Python?"),
    ],
)
def test_what_is_no_python(python: str, reason: str, site: Site) -> None:
    site.write("plain", "").chmod(0o644)
    site.write("nonsense", "\0\1\2").chmod(0o755)
    server = site.serve("looks:wsgi", "--python", python, listeners=[site.tcp()], cwd=site.directory)
    server.expect_error("services.web.python")
    assert server.wait() == 2
    assert reason in server.stderr


def test_python_goes_without_venv(site: Site) -> None:
    server = site.serve("looks:wsgi", "--python", sys.executable, "--venv", sys.prefix, listeners=[site.tcp()])
    server.expect_error("goes without venv")
    assert server.wait() == 2
    asked = run("backends", "--python", sys.executable, "--venv", sys.prefix)
    assert asked.code == 2 and "--python goes without --venv" in asked.err


def test_environment_with_nothing_of_ours_in_it(site: Site, flask_venv: Path) -> None:
    """gunicorn and Flask, and what Flask brings along."""
    (site.directory / ".venv").symlink_to(flask_venv)
    site.write("shop.py", FLASK)
    listener = site.tcp()
    server = site.up(
        f"""
        [sockets.web]
        bind = "{listener.bind}"
        [services.web]
        app = "shop:app"
        venv = ".venv"
        workers = 2
        health = "/"
        """,
        listeners=[listener],
    ).ready()
    assert facts(server) == {"code": "old", "there": []}
    assert server.service()["pinned"] is True
    site.write("shop.py", FLASK.replace('"old"', '"new"'))
    assert server.ctl("reload").code == 0
    assert facts(server) == {"code": "new", "there": []}
    site.write("shop.py", "import click\nimport uvicorn\n" + FLASK)
    server.expect_error("ModuleNotFoundError|Traceback")
    failed = server.ctl("reload")
    assert failed.code == 1
    assert "No module named 'uvicorn'" in failed.err
    assert facts(server)["code"] == "new"
    assert server.stop() == 0


def test_backends_of_another_environment(flask_venv: Path) -> None:
    asked = run("backends", "--venv", str(flask_venv), "--json")
    found = {each["name"]: each for each in asked.json}
    assert found["gunicorn"]["installed"] and not found["uvicorn"]["installed"]
    assert found["gunicorn"]["interfaces"] == ["wsgi", "asgi"]
    assert {each["venv"] for each in asked.json} == {str(flask_venv)}
    by_python = run("backends", "--python", str(flask_venv / "bin" / "python"), "--json")
    assert by_python.json == asked.json


@pytest.mark.parametrize("version", NEW_ENOUGH)
def test_backends_of_another_python(version: str) -> None:
    asked = run("backends", "--python", interpreter(version), "--json")
    assert {each["python"].rpartition(".")[0] for each in asked.json} == {version}
    assert {"gunicorn", "uvicorn"} <= {each["name"] for each in asked.json}
