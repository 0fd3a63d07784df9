"""Names of instances: who gets one, who is refused, what is left of one that was killed, who is found."""

from __future__ import annotations

import glob
import os
import socket
import stat
import threading
from pathlib import Path

import pytest

from trapeze import client, runtime
from trapeze.cli import look
from trapeze.client import find
from trapeze.errors import AlreadyRunning, BindError, ConfigError, NotRunning, TrapezeError
from trapeze.runtime import Claim, claim, list_instances
from trapeze.spec import ControlSpec

Environ = dict[str, str]


@pytest.fixture(name="environ")
def _environ(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Environ:
    """A machine with nothing but one runtime directory."""
    environ = {"TRAPEZE_RUNTIME_DIR": str(run_dir / "run")}
    monkeypatch.setenv("TRAPEZE_RUNTIME_DIR", environ["TRAPEZE_RUNTIME_DIR"])
    own = [runtime.Directory(environ["TRAPEZE_RUNTIME_DIR"], "$TRAPEZE_RUNTIME_DIR")]
    monkeypatch.setattr(runtime, "directories", lambda environ=None: own)
    monkeypatch.setattr(client, "directories", lambda environ=None: own)
    monkeypatch.setattr(look, "directories", lambda environ=None: own)
    monkeypatch.setattr(glob, "glob", lambda pattern: [])  # where root looks for those of others
    return environ


def test_a_claim_is_a_private_socket(environ: Environ) -> None:
    claimed = claim("shop", ControlSpec(), environ=environ)
    found = os.stat(claimed.path)

    assert stat.S_IMODE(found.st_mode) == 0o600
    assert stat.S_IMODE(os.stat(os.path.dirname(claimed.path)).st_mode) == 0o700
    assert os.listdir(os.path.dirname(claimed.path)) == ["shop.sock"]
    claimed.release()
    claimed.release()
    assert os.listdir(os.path.dirname(claimed.path)) == []


@pytest.mark.root
@pytest.mark.skipif(os.getuid() != 0, reason="gives a socket to another group")
def test_a_group_may_be_let_in(environ: Environ) -> None:
    claimed = claim("shop", ControlSpec(group="65534"), environ=environ)
    found = os.stat(claimed.path)

    assert (found.st_gid, stat.S_IMODE(found.st_mode)) == (65534, 0o660)
    assert stat.S_IMODE(os.stat(os.path.dirname(claimed.path)).st_mode) == 0o755
    claimed.release()


def test_a_second_one_is_refused(environ: Environ) -> None:
    claimed = claim("shop", ControlSpec(), environ=environ)
    with pytest.raises(AlreadyRunning) as refused:
        claim("shop", ControlSpec(), environ=environ)
    other = claim("other", ControlSpec(), environ=environ)

    assert refused.value.message == f"an instance named shop is already running as pid {os.getpid()}"
    assert [each.name for each in list_instances(environ)] == ["other", "shop"]
    claimed.release()
    other.release()


def test_what_a_killed_one_left_is_replaced(environ: Environ) -> None:
    old = claim("shop", ControlSpec(), environ=environ)
    old.sock.close()
    assert list_instances(environ) == []

    new = claim("shop", ControlSpec(), environ=environ)
    old.release()

    assert [each.pid for each in list_instances(environ)] == [os.getpid()]
    new.release()


def test_a_full_backlog_is_alive(environ: Environ) -> None:
    claimed = claim("shop", ControlSpec(), environ=environ)
    clients = []
    for _ in range(runtime.BACKLOG + 1):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(claimed.path)
        clients.append(sock)
    found = list_instances(environ)
    with pytest.raises(AlreadyRunning, match=r"an instance named shop is already running$"):
        claim("shop", ControlSpec(), environ=environ)
    for sock in clients:
        sock.close()
    claimed.release()

    assert [(each.name, each.pid, each.reachable) for each in found] == [("shop", None, True)]


def test_of_many_starters_one_wins(environ: Environ) -> None:
    """At the same time, over what a killed one left."""
    old = claim("shop", ControlSpec(), environ=environ)
    old.sock.close()
    won: list[Claim] = []
    lost: list[str] = []
    barrier = threading.Barrier(8)

    def start() -> None:
        barrier.wait()
        try:
            won.append(claim("shop", ControlSpec(), environ=environ))
        except AlreadyRunning as error:
            lost.append(error.message)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert (len(won), len(lost)) == (1, 7)
    assert os.listdir(environ["TRAPEZE_RUNTIME_DIR"]) == ["shop.sock"]
    won[0].release()


def test_what_is_no_socket_is_not_touched(environ: Environ, run_dir: Path) -> None:
    (run_dir / "run").mkdir(mode=0o700)
    (run_dir / "run" / "shop.sock").write_text("precious")
    with pytest.raises(BindError, match="is in the way: it is not a socket"):
        claim("shop", ControlSpec(), environ=environ)

    assert (run_dir / "run" / "shop.sock").read_text() == "precious"


def test_a_directory_that_others_can_write_is_refused(environ: Environ, run_dir: Path) -> None:
    (run_dir / "run").mkdir()
    (run_dir / "run").chmod(0o777)
    with pytest.raises(BindError, match=r"can be written by others \(mode 0777\)") as refused:
        claim("shop", ControlSpec(), environ=environ)

    assert refused.value.hint == f"chmod go-w {run_dir}/run"


@pytest.mark.root
@pytest.mark.skipif(os.getuid() != 0, reason="makes a directory of another user")
def test_a_directory_of_somebody_else_is_refused(environ: Environ, run_dir: Path) -> None:
    (run_dir / "run").mkdir(mode=0o700)
    os.chown(run_dir / "run", 65534, 65534)
    with pytest.raises(BindError, match=r"belongs to uid 65534, not to us \(uid 0\)"):
        claim("shop", ControlSpec(), environ=environ)


def test_a_path_that_is_too_long(environ: Environ, monkeypatch: pytest.MonkeyPatch, run_dir: Path) -> None:
    long = runtime.Directory(str(run_dir / ("x" * 100)), "$TRAPEZE_RUNTIME_DIR")
    monkeypatch.setattr(runtime, "directories", lambda environ=None: [long])
    with pytest.raises(BindError, match=r"has a path that is too long: 1.. bytes, the kernel takes 107"):
        claim("shop", ControlSpec())


def test_a_group_that_does_not_exist(environ: Environ) -> None:
    with pytest.raises(ConfigError, match=r'control\.group: there is no group named "nosuchgroup"'):
        claim("shop", ControlSpec(group="nosuchgroup"), environ=environ)


def test_places(monkeypatch: pytest.MonkeyPatch) -> None:
    uid = os.getuid()
    assert runtime.directories({}) == [("/run/trapeze", "root"), (f"/tmp/trapeze-{uid}", f"uid {uid}")]
    assert runtime.directories({"TRAPEZE_RUNTIME_DIR": "/a", "XDG_RUNTIME_DIR": "/b"})[::2] == [
        ("/a", "$TRAPEZE_RUNTIME_DIR"),
        ("/b/trapeze", "$XDG_RUNTIME_DIR"),
    ]
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert runtime.own_directory({"XDG_RUNTIME_DIR": "/tmp"}).path == "/tmp/trapeze"
    assert runtime.own_directory({"XDG_RUNTIME_DIR": "/nowhere"}).path == f"/tmp/trapeze-{uid}"


def test_find(environ: Environ) -> None:
    with pytest.raises(NotRunning) as none:
        find(None)
    one = claim("one", ControlSpec(), environ=environ)
    assert (find(None).name, find("one").name) == ("one", "one")
    with pytest.raises(NotRunning) as other:
        find("two")
    two = claim("two", ControlSpec(), environ=environ)
    with pytest.raises(TrapezeError) as several:
        find(None)
    one.release()
    two.release()

    place = environ["TRAPEZE_RUNTIME_DIR"]
    assert none.value.message == f"no instance is running; looked in {place} ($TRAPEZE_RUNTIME_DIR)"
    assert other.value.message == f"no instance named two is running; looked in {place} ($TRAPEZE_RUNTIME_DIR)"
    assert other.value.hint == "running: one"
    assert (several.value.message, several.value.exit_code) == ("2 instances are running: one, two", 2)
