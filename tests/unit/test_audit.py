"""Each part of the audit can fail: something is left on purpose, and found; then it is cleaned up."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import audit as auditing
from tests.support.audit import Audit
from tests.support.server import ROOT

FOREVER = [sys.executable, "-c", "import signal; signal.pause()"]


@pytest.fixture(autouse=True)
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auditing, "GRACE", 0.05)


def test_nothing_is_found_where_nothing_is_left() -> None:
    audit = Audit()
    subprocess.run([sys.executable, "-c", ""], check=True)

    assert audit.findings() == []


def test_child_is_found_and_killed() -> None:
    audit = Audit()
    child = subprocess.Popen(FOREVER)

    assert audit.findings() == [f"child {child.pid} still runs: {' '.join(FOREVER)}"]
    assert child.pid not in auditing.children()
    child.wait()


def test_zombie_is_found() -> None:
    audit = Audit()
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)

    assert audit.findings() == [f"child {child.pid} was not waited for, it is a zombie"]
    child.wait()


def test_zombie_of_fork_is_found() -> None:
    audit = Audit()
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)

    assert audit.findings() == [f"child {pid} was not waited for, it is a zombie"]


def orphan(code: str) -> int:
    """Run a program whose parent ends at once; its pid. It has said that it runs, or has ended."""
    parent = (
        "import subprocess, sys; "
        f"p = subprocess.Popen([sys.executable, '-c', {code!r}], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL); "
        "p.stdout.read(1); print(p.pid)"
    )
    return int(subprocess.run([sys.executable, "-c", parent], check=True, capture_output=True, text=True).stdout)


def test_orphan_of_a_child_is_found() -> None:
    audit = Audit()
    pid = orphan("print('x', end='', flush=True); import signal; signal.pause()")

    (finding,) = audit.findings()

    assert finding.startswith(f"orphan {pid} still runs: ")
    assert pid not in auditing.children()


def test_orphan_that_has_ended_is_reaped_and_no_finding() -> None:
    """The kernel would have given it to pid 1, which reaps."""
    audit = Audit()
    orphan("")

    assert audit.findings() == []


def test_descriptor_is_found() -> None:
    audit = Audit()
    reader, writer = os.pipe()

    findings = audit.findings()
    os.close(reader)
    os.close(writer)

    assert [finding.partition(" is open: pipe:")[0] for finding in findings] == [
        f"descriptor {reader}",
        f"descriptor {writer}",
    ]
    assert audit.findings() == []


def test_descriptor_that_leads_elsewhere_is_found() -> None:
    """The number was there before, but it is another thing now."""
    number = os.open("/dev/null", os.O_RDONLY)
    audit = Audit()
    other = os.open("/dev/zero", os.O_RDONLY)
    os.dup2(other, number)
    os.close(other)

    findings = audit.findings()
    os.close(number)

    assert findings == [f"descriptor {number} is open: /dev/zero"]


def test_socket_file_is_found(tmp_path: Path) -> None:
    audit = Audit()
    audit.watch(tmp_path)
    (tmp_path / "below").mkdir()
    path = tmp_path / "below" / "s"
    with socket.socket(socket.AF_UNIX) as sock:
        os.chdir(tmp_path / "below")
        try:
            sock.bind("s")
        finally:
            os.chdir(ROOT)

    assert audit.findings() == [f"socket file is left: {path}"]
    audit.allow_socket(path)
    assert audit.findings() == []
    path.unlink()


def test_socket_in_the_usual_runtime_directory_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that forgot TRAPEZE_RUNTIME_DIR would talk to the real instances of this machine."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "trapeze").mkdir()
    audit = Audit()
    monkeypatch.chdir(tmp_path / "trapeze")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind("x.sock")

    assert audit.findings() == [f"socket file is left: {tmp_path / 'trapeze' / 'x.sock'}"]
    (tmp_path / "trapeze" / "x.sock").unlink()


def test_unannounced_line_is_found() -> None:
    audit = Audit()
    audit.add_output(lambda: ["ERROR the machine is on fire"])

    assert audit.findings() == ["unannounced: ERROR the machine is on fire"]


LEAKS = """
import os, socket, subprocess, sys

def test_child():
    globals()["kept"] = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])

def test_descriptor():
    globals()["pipe"] = os.pipe()

def test_socket(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind("s")

def test_good():
    pass
"""


def test_plugin_fails_the_tests_that_leak(tmp_path: Path) -> None:
    (tmp_path / "test_leaks.py").write_text(LEAKS)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.support.audit", "-p", "no:cacheprovider", "."]

    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert "4 passed, 3 errors" in done.stdout, done.stdout + done.stderr
    for word in ("child", "descriptor", "socket file is left"):
        assert word in done.stdout
