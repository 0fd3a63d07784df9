"""What the worker side imports: it decides how fast every worker starts, and that it runs in the app's own venv."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from trapeze_backends.registry import BUILT_IN

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "backends" / "trapeze_backends"

BARE = {"trapeze_backends", "trapeze_backends.child", "trapeze_backends.contract", "trapeze_backends.jsontext"}
BARE |= {"trapeze_backends.notify", "__future__"}
"""What importing the entry point may load beyond what a bare interpreter has."""

EXEC = BARE | {"trapeze_backends.process", "trapeze_backends.execute", "errno", "fcntl", "_json", "_ctypes"}
EXEC |= {"resource"}
"""What a command may cost: nothing that is written in Python."""

THIRD_PARTY = {
    "gunicorn.py": {"gunicorn", "gevent"},
    "gunicorn_asgi.py": {"gunicorn"},
    "gunicorn_drain.py": {"gevent"},
    "gunicorn_server.py": {"gunicorn"},
    "gunicorn_settings.py": {"gunicorn"},
    "uvicorn.py": {"uvicorn"},
    "uvicorn_server.py": {"uvicorn"},
    "waitress.py": {"waitress"},
    "waitress_server.py": {"waitress"},
    "gevent.py": {"gevent"},
    "gevent_share.py": {"gevent"},
    "gevent_server.py": {"gevent"},
    "gevent_websocket.py": {"geventwebsocket"},
    "cheroot.py": {"cheroot"},
    "cheroot_server.py": {"cheroot"},
    "cheroot_http.py": {"cheroot"},
    "bjoern_server.py": {"bjoern"},
    "werkzeug.py": {"werkzeug"},
    "werkzeug_server.py": {"werkzeug"},
    "chaussette_plain.py": {"chaussette"},
    "chaussette_eventlet.py": {"eventlet", "chaussette"},
    "fastpysgi_server.py": {"_fastpysgi", "fastpysgi"},
    "granian_server.py": {"granian"},
    "green.py": {"eventlet"},
    "hypercorn.py": {"hypercorn"},
    "hypercorn_server.py": {"hypercorn", "h11"},
    "hypercorn_wsgi.py": {"hypercorn"},
    "daphne_server.py": {"daphne", "twisted"},
    "aiohttp_server.py": {"aiohttp", "yarl"},
    "aiohttp_drain.py": {"aiohttp"},
    "tornado_server.py": {"tornado"},
    "tornado_native.py": {"tornado"},
    "tornado_wsgi.py": {"tornado"},
    "loops.py": {"uvloop"},
    "uwsgi.py": {"pyuwsgi", "uwsgi"},
    "uwsgi_app.py": {"uwsgi"},
    "uwsgi_inside.py": {"pyuwsgi"},
    "warm.py": {"django"},
}
"""Each file imports the server that it adapts, and no other package."""


def modules_after(code: str) -> set[str]:
    """Names of what `code` has loaded in a bare interpreter."""
    text = f"import sys, os; before = set(sys.modules)\n{code}\nprint(*sorted(set(sys.modules) - before))"
    run = [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.append({str(PACKAGE.parent)!r})\n{text}"]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_entry_point_loads_next_to_nothing() -> None:
    assert modules_after("import trapeze_backends.child") <= BARE


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_check_imports_nothing_that_a_worker_needs(name: str) -> None:
    """A start waits for its check."""
    found = modules_after(f"import trapeze_backends.check, {BUILT_IN[name]}")
    assert not found & {"inspect", "socket", "asyncio", "threading", "re", "typing", "logging", name}


def test_a_command_costs_no_module_written_in_python() -> None:
    job = '{"version": 1, "mode": "exec", "parent": 0, "rlimits": {"core": [0, 0]}, "command": ["true"]}'
    code = f"""
import os, posix
from trapeze_backends import child
fd = posix.memfd_create("job"); posix.write(fd, {job!r}.encode())
os.execvp = lambda *words: None
os._exit = lambda status: None
from trapeze_backends.process import settle
from trapeze_backends.execute import execute
job = child.read_job(fd)
from trapeze_backends.process import _prctl
settle(job); _prctl(1, 0)
os.execvp = lambda *words: (_ for _ in ()).throw(FileNotFoundError(2, "no"))
null = posix.open("/dev/null", 1); posix.dup2(null, 2)
from trapeze_backends.notify import Notifier
execute(job, Notifier(None))
"""
    assert modules_after(code) <= EXEC


def imported(path: Path) -> set[str]:
    """Top-level names of the packages that a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            found.add((node.module or "").split(".")[0])
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda path: path.name)
def test_each_file_imports_the_standard_library_and_its_own_server(path: Path) -> None:
    others = imported(path) - set(sys.stdlib_module_names) - {"trapeze_backends"}
    assert others <= THIRD_PARTY.get(path.name, set())


def test_nothing_of_the_supervisor_is_imported() -> None:
    for path in PACKAGE.glob("*.py"):
        assert "trapeze" not in imported(path), path.name


def test_bootstrap_shows_the_app_no_other_package() -> None:
    """What stands beside trapeze_backends, as in a site-packages, cannot be imported by the app."""
    from trapeze.boot import BOOT

    code = BOOT.replace("main(job)", "")
    script = f"{code}\nimport json\nprint(json.dumps([p for p in sys.path]))\nimport pytest"
    run = [sys.executable, "-I", "-S", "-c", script, "x", "0", str(PACKAGE.parent)]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert "No module named 'pytest'" in done.stderr
    assert str(PACKAGE.parent) not in done.stdout
    assert '""' not in done.stdout
