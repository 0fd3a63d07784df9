"""Unix sockets: permissions, what is replaced and what is left alone, what remains at the end."""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import pwd
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.listening import Bind, bind_fixture, live_socket, refused, talks
from tests.support.wait import until
from trapeze.errors import BindError
from trapeze.socketfile import Directory, permit
from trapeze.sockets import open_sockets
from trapeze.spec import SocketSpec

__all__ = ["bind_fixture"]

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs to be root")


def dead_socket(path: Path) -> None:
    """Leave a socket file that nobody listens on."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.bind(str(path))
        sock.listen()


@pytest.mark.parametrize(("mode", "permissions"), [(None, 0o660), ("0600", 0o600), ("777", 0o777)])
def test_unix_socket(bind: Bind, run_dir: Path, mode: str | None, permissions: int) -> None:
    path = run_dir / "a.sock"
    umask = os.umask(0o27)
    try:
        (listener,) = bind(f"unix:{path}", mode=mode)
        assert os.umask(0o27) == 0o27, "the umask is as it was"
    finally:
        os.umask(umask)

    assert stat.S_IMODE(path.stat().st_mode) == permissions
    assert listener.address == f"unix:{path}"
    assert not os.get_blocking(listener.fd)
    assert not os.get_inheritable(listener.fd)
    assert [each.name for each in run_dir.iterdir()] == ["a.sock"], "the private name is gone"
    assert talks(listener)
    listener.close()
    listener.close()
    assert not path.exists()


def test_relative_path_is_remembered_whole(bind: Bind, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run_dir)
    (listener,) = bind("unix:a.sock")
    monkeypatch.chdir("/")

    assert listener.address == f"unix:{run_dir}/a.sock"
    listener.close()
    assert not (run_dir / "a.sock").exists()


def test_longest_path_works(bind: Bind, run_dir: Path) -> None:
    path = run_dir / ("x" * (107 - len(str(run_dir)) - 1))
    assert len(str(path)) == 107

    (listener,) = bind(f"unix:{path}")

    assert talks(listener)


@root_only
def test_owner_and_group_by_name_and_number(bind: Bind, run_dir: Path) -> None:
    nobody, group = pwd.getpwnam("nobody"), grp.getgrnam("daemon")

    bind(f"unix:{run_dir}/a.sock", owner="nobody", group="daemon", mode="0620")
    bind(f"unix:{run_dir}/b.sock", owner="4711", group="4712")
    bind(f"unix:{run_dir}/c.sock", group="daemon")

    found = {path.name: path.stat() for path in run_dir.iterdir()}
    owners = {name: (each.st_uid, each.st_gid) for name, each in found.items()}
    assert owners == {"a.sock": (nobody.pw_uid, group.gr_gid), "b.sock": (4711, 4712), "c.sock": (0, group.gr_gid)}
    assert stat.S_IMODE(found["a.sock"].st_mode) == 0o620


@pytest.mark.parametrize(("key", "what"), [("owner", "user"), ("group", "group")])
def test_unknown_owner(run_dir: Path, key: str, what: str) -> None:
    options: dict[str, Any] = {key: "no-such-one"}
    error = refused(f"unix:{run_dir}/a.sock", **options)

    assert str(error) == f"cannot listen on unix:{run_dir}/a.sock: there is no {what} no-such-one"
    assert not list(run_dir.iterdir())


def test_stale_socket_is_replaced(bind: Bind, run_dir: Path) -> None:
    path = run_dir / "a.sock"
    dead_socket(path)

    (listener,) = bind(f"unix:{path}")

    assert talks(listener)


def test_live_socket_is_left_alone(run_dir: Path) -> None:
    path = run_dir / "a.sock"
    with live_socket(path) as sock:
        error = refused(f"unix:{path}")

        sock.accept()[0].close()  # our question; the next is a client's
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.connect(str(path))

    assert "address already in use (EADDRINUSE), held by " in str(error)
    assert str(error).endswith(f"pid {os.getpid()}")


def test_live_socket_with_a_full_queue_is_left_alone(run_dir: Path) -> None:
    path = run_dir / "a.sock"
    with live_socket(path, backlog=0), contextlib.ExitStack() as stack:
        while True:
            client = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            client.setblocking(False)
            if client.connect_ex(str(path)) == errno.EAGAIN:
                break
        error = refused(f"unix:{path}")
        assert path.exists()

    assert "EADDRINUSE" in str(error)


def test_datagram_socket_is_left_alone(run_dir: Path) -> None:
    path = run_dir / "a.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(path))
        error = refused(f"unix:{path}")
        path.unlink()

    assert "EADDRINUSE" in str(error)


@pytest.mark.parametrize("make", [lambda path: path.write_text("data"), lambda path: path.mkdir()])
def test_file_that_is_no_socket_is_left_alone(run_dir: Path, make: Callable[[Path], object]) -> None:
    path = run_dir / "a.sock"
    make(path)

    error = refused(f"unix:{path}")

    assert "a file is there that is not a socket" in str(error)
    assert path.exists()


def test_link_to_a_socket_is_left_alone(run_dir: Path) -> None:
    path = run_dir / "a.sock"
    dead_socket(run_dir / "real.sock")
    path.symlink_to(run_dir / "real.sock")

    error = refused(f"unix:{path}")

    assert "not a socket" in str(error)
    (run_dir / "real.sock").unlink()


def test_missing_directory(run_dir: Path) -> None:
    error = refused(f"unix:{run_dir}/no/a.sock")

    assert f"directory {run_dir}/no: no such file or directory (ENOENT)" in str(error)
    assert error.hint == f"mkdir -p {run_dir}/no"


def test_directory_that_is_a_file(run_dir: Path) -> None:
    (run_dir / "no").write_text("")

    assert "ENOTDIR" in str(refused(f"unix:{run_dir}/no/a.sock"))


AS_NOBODY = """
import os, sys
from trapeze.errors import BindError
from trapeze.sockets import open_sockets
from trapeze.spec import SocketSpec
os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    open_sockets("web", SocketSpec(bind=sys.argv[1], group=sys.argv[2] or None), systemd={})[0].close()
except BindError as error:
    print(error.render())
"""


def as_nobody(address: str, group: str = "") -> str:
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", AS_NOBODY, address, group]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout


@root_only
def test_what_an_ordinary_user_may_not(run_dir: Path) -> None:
    # 1777, so that a file of nobody's can be made at all
    run_dir.chmod(0o755)
    (run_dir / "shared").mkdir()
    (run_dir / "shared").chmod(0o1777)

    not_writable = as_nobody(f"unix:{run_dir}/a.sock")
    not_member = as_nobody(f"unix:{run_dir}/shared/a.sock", "0")

    assert "permission denied (EACCES)" in not_writable
    assert f"hint: the directory {run_dir} must be writable by uid 65534" in not_writable
    assert "operation not permitted (EPERM)" in not_member
    assert "only root" in not_member
    assert not list((run_dir / "shared").iterdir()), "the private file is gone"


@root_only
def test_live_socket_of_another_user_is_alive_although_it_cannot_be_asked(bind: Bind, run_dir: Path) -> None:
    run_dir.chmod(0o777)
    bind(f"unix:{run_dir}/a.sock", mode="0600")

    assert "EADDRINUSE" in as_nobody(f"unix:{run_dir}/a.sock")


def test_file_of_another_is_not_removed(bind: Bind, run_dir: Path) -> None:
    path = run_dir / "a.sock"
    (listener,) = bind(f"unix:{path}")
    seen = [listener.intact]
    path.unlink()
    seen.append(listener.intact)
    dead_socket(path)
    seen.append(listener.intact)

    listener.close()

    assert seen == [True, False, False]
    assert path.exists()
    path.unlink()


def test_file_that_was_exchanged_while_it_was_made_gets_no_permissions(run_dir: Path) -> None:
    (run_dir / "secret").write_text("")
    (run_dir / "secret").chmod(0o600)
    (run_dir / "link").symlink_to("secret")

    with Directory(str(run_dir)) as parent:
        for name in ("secret", "link"):
            with pytest.raises(PermissionError, match="somebody else"):
                permit(parent, name, 0o666, (-1, -1))

    assert stat.S_IMODE((run_dir / "secret").stat().st_mode) == 0o600


def test_directory_that_is_gone_at_the_end(bind: Bind, run_dir: Path) -> None:
    (run_dir / "d").mkdir()
    (listener,) = bind(f"unix:{run_dir}/d/a.sock")
    (run_dir / "d" / "a.sock").unlink()
    (run_dir / "d").rmdir()

    listener.close()


def test_own_path_is_taken_over_when_said(bind: Bind, run_dir: Path) -> None:
    path = run_dir / "a.sock"
    old = bind(f"unix:{path}", mode="0600")
    assert "EADDRINUSE" in str(refused(f"unix:{path}", mode="0666"))
    old[0].sock.accept()[0].close()  # our question
    inode = path.stat().st_ino

    (new,) = bind(f"unix:{path}", mode="0666", replaces=old)
    old[0].close()

    assert path.stat().st_ino == inode, "the same socket, with the same queue"
    assert stat.S_IMODE(path.stat().st_mode) == 0o666
    assert new.intact
    assert talks(new)
    new.close()
    assert not path.exists()


def test_later(run_dir: Path) -> None:
    """Bound, and not to be found, before it is told to."""
    path = run_dir / "a.sock"
    (listener,) = open_sockets("web", SocketSpec(bind=f"unix:{path}", mode="0600"), systemd={}, later=True)
    assert [each.name for each in run_dir.iterdir()] == [".a.sock.next"]
    assert stat.S_IMODE((run_dir / ".a.sock.next").stat().st_mode) == 0o600

    listener.take()
    listener.take()

    assert [each.name for each in run_dir.iterdir()] == ["a.sock"]
    assert talks(listener)
    listener.close()
    assert not list(run_dir.iterdir())


def test_later_and_never(run_dir: Path) -> None:
    (listener,) = open_sockets("web", SocketSpec(bind=f"unix:{run_dir}/a.sock"), systemd={}, later=True)
    listener.close()

    assert not list(run_dir.iterdir())


def test_later_and_taken_by_another(run_dir: Path) -> None:
    """It can be tried again."""
    path = run_dir / "a.sock"
    (listener,) = open_sockets("web", SocketSpec(bind=f"unix:{path}"), systemd={}, later=True)
    with live_socket(path), pytest.raises(BindError, match="EADDRINUSE"):
        listener.take()
    listener.take()

    assert talks(listener)
    listener.close()


def test_what_a_killed_supervisor_had_not_placed_yet_is_removed(bind: Bind, run_dir: Path) -> None:
    dead_socket(run_dir / ".a.sock.next")

    bind(f"unix:{run_dir}/a.sock")

    assert [each.name for each in run_dir.iterdir()] == ["a.sock"]


def test_two_that_wait_for_one_path(run_dir: Path) -> None:
    """Neither removes the other."""
    spec = SocketSpec(bind=f"unix:{run_dir}/a.sock")
    one, two = (open_sockets("web", spec, systemd={}, later=True)[0] for _ in range(2))
    assert len(list(run_dir.iterdir())) == 2

    one.take()
    with pytest.raises(BindError, match="EADDRINUSE"):
        two.take()

    two.close()
    assert [each.name for each in run_dir.iterdir()] == ["a.sock"]
    for _ in range(2):
        one.sock.accept()[0].close()  # the questions of the other
    assert talks(one)
    one.close()


def test_other_permissions_later(bind: Bind, run_dir: Path) -> None:
    """The same socket, under another descriptor; the file changes when it is told to, and back."""
    path = run_dir / "a.sock"
    (old,) = bind(f"unix:{path}", mode="0600")
    (new,) = open_sockets("web", SocketSpec(bind=f"unix:{path}", mode="0666"), systemd={}, replaces=[old], later=True)
    assert new.identity == old.identity
    assert stat.S_IMODE(path.stat().st_mode) == 0o600

    new.take()
    assert stat.S_IMODE(path.stat().st_mode) == 0o666
    old.assert_section()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    new.close()

    assert path.exists(), "the other one has it too"
    assert talks(old)
    assert [each.name for each in run_dir.iterdir()] == ["a.sock"]


@root_only
def test_other_owner_later(bind: Bind, run_dir: Path) -> None:
    """There and back: who is not named is who a new file would belong to."""
    path = run_dir / "a.sock"
    (old,) = bind(f"unix:{path}", mode="0600")
    spec = SocketSpec(bind=f"unix:{path}", mode="0660", owner="4711", group="4712")
    (new,) = open_sockets("web", spec, systemd={}, replaces=[old])
    found = path.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (4711, 4712, 0o660)

    old.assert_section()

    found = path.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (0, os.getegid(), 0o600)
    new.close()


def test_permissions_are_for_our_file_only(bind: Bind, run_dir: Path) -> None:
    """What somebody put in its place, a link among it, is left as it is, and the error says so."""
    path = run_dir / "a.sock"
    (old,) = bind(f"unix:{path}", mode="0600")
    spec = SocketSpec(bind=f"unix:{path}", mode="0666")
    (new,) = open_sockets("web", spec, systemd={}, replaces=[old], later=True)
    (run_dir / "secret").write_text("")
    (run_dir / "secret").chmod(0o600)
    for what in ("link", "socket"):
        path.unlink()
        if what == "link":
            path.symlink_to("secret")
        else:
            dead_socket(path)
        with pytest.raises(BindError, match="somebody else replaced"):
            new.take()

    assert stat.S_IMODE((run_dir / "secret").stat().st_mode) == 0o600
    new.close()
    path.unlink()


def test_unlink_lets_those_in_the_queue_be_served(bind: Bind, run_dir: Path) -> None:
    path = run_dir / "a.sock"
    (listener,) = bind(f"unix:{path}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.connect(str(path))
        listener.unlink()
        listener.sock.accept()[0].close()

    assert not path.exists()


def test_abstract(bind: Bind) -> None:
    name = f"trapeze-test-{os.getpid()}"
    (listener,) = bind(f"unix:@{name}")

    assert listener.address == f"unix:@{name}"
    assert not os.get_blocking(listener.fd)
    assert talks(listener)
    error = refused(f"unix:@{name}")
    assert "address already in use (EADDRINUSE), held by" in str(error)
    assert str(error).endswith(f"pid {os.getpid()}")


BOTH = """
import sys
from trapeze.errors import BindError
from trapeze.sockets import open_sockets
from trapeze.spec import SocketSpec
for line in sys.stdin:
    try:
        held = open_sockets("web", SocketSpec(bind=line.strip()), systemd={})
    except BindError as error:
        print("no", flush=True)
    else:
        print("yes", flush=True)
        sys.stdin.readline()
        held[0].close()
"""


@pytest.mark.parametrize("stale", [False, True], ids=["free", "stale"])
def test_two_that_bind_at_the_same_moment(run_dir: Path, *, stale: bool) -> None:
    """One has the path, and the other says that it is in use; never both."""
    root = Path(__file__).resolve().parents[2]
    path = run_dir / "a.sock"
    both = [
        subprocess.Popen([sys.executable, "-c", BOTH], cwd=root, stdin=-1, stdout=-1, text=True, bufsize=1)
        for _ in range(2)
    ]
    answers = []
    for _ in range(60):
        if stale:
            dead_socket(path)
        for each in both:
            assert each.stdin is not None
            each.stdin.write(f"unix:{path}\n")
        said = [each.stdout.readline().strip() for each in both if each.stdout is not None]
        answers.append(sorted(said))
        for each, word in zip(both, said, strict=True):
            if word == "yes" and each.stdin is not None:
                each.stdin.write("\n")
        until(lambda: not path.exists(), what="the path to be free")
    for each in both:
        each.communicate(timeout=10)

    assert answers == [["no", "yes"]] * 60
    assert not list(run_dir.iterdir())


def test_where_files_have_one_name_only(bind: Bind, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some file systems know no links."""

    def link(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    (listener,) = bind(f"unix:{run_dir}/a.sock")

    assert talks(listener)
    assert [each.name for each in run_dir.iterdir()] == ["a.sock"]
