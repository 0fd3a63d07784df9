"""Mode exec, and mode check."""

from __future__ import annotations

import json
import os
import re
import resource
import socket
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.site import ignored_of
from tests.support.workerkit import check, run_job
from trapeze.boot import BOOT

Make = Callable[..., Any]

SHOW = "import os; print([os.environ.get(name) for name in ('LISTEN_FDS', 'LISTEN_PID', 'LISTEN_FDNAMES')])"


def exec_job(*command: str, **fields: Any) -> Any:
    options = {key: fields.pop(key) for key in ("fds", "env") if key in fields}
    return run_job({"mode": "exec", "command": list(command), **fields}, **options)


def test_command_gets_its_sockets_from_3_on(tcp: Make, unix: Make) -> None:
    first, second, third = tcp(), unix(), tcp()
    sockets = [
        {"name": name, "fd": listener.fd, "address": listener.address}
        for name, listener in [("web", first), ("admin", second), ("web", third)]
    ]
    code = "; ".join([
        "import os, socket, sys",
        "names = [socket.socket(fileno=n).getsockname() for n in (3, 4, 5)]",
        "print(sys.argv[1:], names[0][1], names[1], names[2][1])",
        "print(os.environ['LISTEN_FDS'], os.environ['LISTEN_PID'] == str(os.getpid()), os.environ['LISTEN_FDNAMES'])",
    ])  # fmt: skip
    done = exec_job(
        sys.executable, "-c", code, "{fd:web}", "x{fd:web:1}-{fd:admin}", "{fd:other}",
        sockets=sockets, fds=[first.fd, second.fd, third.fd],
    )  # fmt: skip
    ports = [listener.sock.getsockname()[1] for listener in (first, third)]
    assert done.out.splitlines() == [
        f"['3', 'x5-4', '{{fd:other}}'] {ports[0]} {second.path} {ports[1]}", "3 True web:admin:web"
    ], done  # fmt: skip


@pytest.mark.parametrize("order", [(5, 4, 3), (4, 3, 5), (3, 4, 5), (10, 3, 4)])
def test_overlapping_numbers(order: tuple[int, ...], run_dir: Path) -> None:
    """Old and new numbers overlap in every way; the job and the notify socket stand in between."""
    code = "import os\nprint([os.fstat(n).st_size for n in (3, 4, 5)])"
    script = f"""
import os, json, sys
from trapeze_backends.child import main
target = os.open({str(run_dir / "job")!r}, os.O_RDONLY)
target = os.dup2(target, 20)
for size, fd in enumerate({order!r}):
    file = os.open({str(run_dir)!r} + f"/f{{size}}", os.O_RDWR | os.O_CREAT)
    os.write(file, b"x" * size)
    os.dup2(file, 30 + size)
for size, fd in enumerate({order!r}):
    os.dup2(30 + size, fd)
main(20)
"""
    sockets = [{"name": "web", "fd": fd, "address": ""} for fd in order]
    job = {"version": 1, "mode": "exec", "command": [sys.executable, "-c", code], "sockets": sockets}
    (run_dir / "job").write_text(json.dumps(job))
    root = Path(__file__).parents[2] / "backends"
    done = subprocess.run([sys.executable, "-c", script], env={"PYTHONPATH": str(root)}, capture_output=True, text=True)
    assert done.stdout == "[0, 1, 2]\n", done


def test_command_without_sockets_has_no_listen_variables() -> None:
    environ = {**os.environ, "LISTEN_FDS": "1", "LISTEN_PID": "1", "LISTEN_FDNAMES": "x"}
    done = exec_job(sys.executable, "-c", SHOW, env=environ)
    assert done.out == "[None, None, None]\n", done


def test_command_that_is_not_there_or_cannot_be_run(run_dir: Path) -> None:
    plain = run_dir / "plain"
    plain.write_text("#!/nowhere/sh\n")
    assert exec_job("no-such-program") == (127, "", "error: cannot run no-such-program: No such file or directory\n")
    assert exec_job(str(plain)) == (126, "", f"error: cannot run {plain}: Permission denied\n")
    plain.chmod(0o755)
    assert exec_job(str(plain))[::2] == (
        127, f"error: cannot run {plain}: the interpreter in its first line does not exist\n"
    )  # fmt: skip


def test_failed_exec_is_reported(run_dir: Path) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        done = exec_job("no-such-program", notify_fd=theirs.fileno(), fds=[theirs.fileno()])
        theirs.close()
        assert done.code == 127
        assert b"cannot run no-such-program" in ours.recv(1 << 16)
        assert ours.recv(1 << 16) == b""


def test_limits_and_niceness() -> None:
    code = "import os, resource; print(resource.getrlimit(resource.RLIMIT_NOFILE), os.getpriority(os.PRIO_PROCESS, 0))"
    done = exec_job(sys.executable, "-c", code, rlimits={"nofile": [100, 200]}, nice=7)
    assert done.out == "(100, 200) 7\n", done


@pytest.mark.skipif(os.getuid() == 0, reason="root may raise limits")
def test_limit_that_may_not_be_raised() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert "only root can raise it" in exec_job("true", rlimits={"nofile": [hard + 1, hard + 1]}).err


def test_unknown_limit() -> None:
    assert exec_job("true", rlimits={"files": [1, 1]})[::2] == (3, "error: rlimits: there is no limit called 'files'\n")


def test_signals_that_python_ignores_are_not_ignored_by_the_command() -> None:
    done = exec_job("sh", "-c", "grep SigIgn /proc/self/status")
    assert ignored_of(done.out.split()[1]) == 0


def test_command_dies_with_its_supervisor() -> None:
    code = "import ctypes; n = ctypes.c_int(); ctypes.CDLL(None).prctl(2, ctypes.byref(n)); print(n.value)"
    assert exec_job(sys.executable, "-c", code, stop_signal=10).out == "10\n"


def test_command_whose_supervisor_is_gone_is_not_started() -> None:
    assert exec_job("echo", "started", parent=1 if os.getppid() != 1 else 2) == (0, "", "")


# -- check -------------------------------------------------------------------------------------------------------------


def problems(**fields: Any) -> list[tuple[str, str, str]]:
    return [(p["field"], p["reason"], p["hint"]) for p in check(**fields)["problems"]]


def test_check_of_a_good_service(run_dir: Path) -> None:
    (run_dir / "shop.py").write_text("raise SystemError('check does not import it')\n")
    answer = check(app="shop:app", app_dir=str(run_dir), backend="gunicorn")
    assert answer["problems"] == []
    assert answer["backend"] == "gunicorn"
    assert answer["version"][0].isdigit()
    assert answer["python"] == sys.version.split()[0]


def test_check_finds_all_problems_at_once(run_dir: Path) -> None:
    found = problems(
        app="shop:app", app_dir=str(run_dir), backend="gunicorn", interface="wsgi",
        options={"bind": "x", "thread": 1, "worker_class": "asgi", "on_starting": "x"},
    )  # fmt: skip
    assert {field for field, _, _ in found} == {
        "options.bind", "options.thread", "options.worker_class", "options.on_starting", "app"
    }  # fmt: skip


def test_check_of_options_with_auto(run_dir: Path) -> None:
    found = problems(app="workerkit", backend="auto", options={"threads": 2})
    assert ("options", 'options are those of one server, and backend = "auto" does not say which',
            'name it: backend = "gunicorn"') in found  # fmt: skip


@pytest.mark.parametrize(
    ("worker_class", "reason", "hint"),
    [
        ("eventlet", "gunicorn 27.* has no worker class 'eventlet'", "use another class"),
        ("gthreads", "gunicorn .* has no worker class 'gthreads'", 'did you mean "gthread"?'),
        ("nosuch.Class", "", ""),
        ("gevent", "", ""),
    ],
)
def test_check_of_a_worker_class(worker_class: str, reason: str, hint: str, run_dir: Path) -> None:
    """Whether this gunicorn has it; those that are somebody else's are not looked at."""
    (run_dir / "shop.py").write_text("")
    options = {"worker_class": worker_class}

    found = problems(app="shop:app", app_dir=str(run_dir), backend="gunicorn", options=options)

    assert [field for field, _, _ in found] == (["options.worker_class"] if reason else [])
    if reason:
        assert re.fullmatch(reason, found[0][1])
        assert found[0][2] == hint


def test_check_may_import_the_app(run_dir: Path) -> None:
    (run_dir / "shop.py").write_text("import nosuch\n")
    found = problems(app="shop:app", app_dir=str(run_dir), backend="gunicorn", import_app=True)
    assert found[0][:2] == ("app", "importing shop failed: ModuleNotFoundError: No module named 'nosuch'")
    assert "shop.py" in found[0][2]


def test_check_of_an_interface_that_is_not_served() -> None:
    assert problems(backend="uvicorn", interface="wsgi")[0] == (
        "interface", "uvicorn does not serve WSGI apps", 'backend = "gunicorn" does'
    )  # fmt: skip


def test_check_in_an_interpreter_without_servers(bare_venv: str) -> None:
    own = ("gunicorn", "chaussette", "waitress", "gevent", "cheroot", "bjoern", "werkzeug", "fastpysgi")
    packages = {**{name: name for name in own}, "uvicorn": "'uvicorn[standard]'", "granian": "'granian>=2.8.9,<2.9'"}
    for name, pip in packages.items():
        found = problems(backend=name, python=bare_venv)
        assert found[0][0] == "backend"
        assert found[0][1].startswith(f"{name} is not installed in /")
        assert found[0][2] == f"pip install {pip}"
    assert problems(backend="auto", python=bare_venv)[0][1].startswith("neither gunicorn nor uvicorn is installed")


@pytest.fixture(scope="module")
def bare_venv(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An interpreter with nothing in it."""
    where = tmp_path_factory.mktemp("bare")
    venv.create(where, symlinks=True)
    return str(where / "bin" / "python")


def test_app_in_another_environment_sees_nothing_of_ours(bare_venv: str, run_dir: Path) -> None:
    """Even with trapeze_backends beside click in one site-packages."""
    site = run_dir / "site"
    (site / "click").mkdir(parents=True)
    (site / "click" / "__init__.py").write_text("")
    (site / "trapeze_backends").symlink_to(Path(__file__).parents[2] / "backends" / "trapeze_backends")
    (run_dir / "shop.py").write_text(
        "def missing(name):\n"
        "    try: __import__(name)\n"
        "    except ModuleNotFoundError: return True\n"
        "assert missing('click') and missing('trapeze') and missing('gunicorn') and missing('child')\n"
        "import sys; assert '' not in sys.path and sys.argv == ['trapeze']\n"
        "raise RuntimeError('got here')\n"
    )
    fd = os.memfd_create("job")
    job = {"version": 1, "mode": "check", "app": "shop", "app_dir": str(run_dir), "import_app": True}
    os.write(fd, json.dumps(job).encode())
    done = subprocess.run(
        [bare_venv, "-c", BOOT, "x", str(fd), str(site)], pass_fds=[fd], capture_output=True, text=True
    )
    os.close(fd)
    assert "RuntimeError: got here" in done.stdout, done
