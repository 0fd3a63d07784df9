"""`preflight.examine`: what the user of a service may not run, enter or read; interpreters of scripts."""

from __future__ import annotations

import errno
import os
import pwd
import struct
import sys
from pathlib import Path
from typing import Any

import pytest

from trapeze import reach
from trapeze.access import Entry, Person, entries
from trapeze.config import load
from trapeze.errors import ConfigError
from trapeze.preflight import examine
from trapeze.reach import EXECUTE, READ, handed_to, refusal
from trapeze.spec import ServiceSpec

ROOT = os.geteuid() == 0
NOBODY = pwd.getpwnam("nobody")
STRANGER = Person("nobody", NOBODY.pw_uid, [NOBODY.pw_gid])


@pytest.fixture(autouse=True)
def here(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that all may enter, seen by root: who is not root and tests this may hand nothing to anybody."""
    run_dir.chmod(0o755)
    monkeypatch.chdir(run_dir)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return run_dir


def script(path: str, mode: int = 0o755, first: str = "#!/bin/sh") -> str:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(f"{first}\n")
    Path(path).chmod(mode)
    return path


def said(**fields: Any) -> list[str]:
    tree: dict[str, Any] = {"services": {"a": {"command": "/bin/sh", **fields}}}
    if "app" in fields:
        python = {} if "venv" in fields else {"python": "/bin/sh"}  # ours may lie in the home directory of root
        tree = {"services": {"a": {**python, **fields}}, "sockets": {"a": {"bind": ":80"}}}
    resolved = load(None, overlay=tree, environ={})
    problems = examine(resolved, {"PATH": "/bin:/usr/bin"})
    return [str(problem).removeprefix("flag: ").removeprefix("services.a.") for problem in problems]


def mode(path: Path | str) -> str:
    found = os.stat(path)
    return f"(mode {found.st_mode & 0o7777:04o}, uid {found.st_uid}, gid {found.st_gid})"


# -- what config has refused already ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"ready": "exec:"}, 'ready: "exec:" lacks a command'),
        ({"ready": "exec: "}, 'ready: "exec:" lacks a command'),
        ({"pre_start": [""]}, "pre_start: command 1 is empty"),
        ({"pre_start": " "}, "pre_start: command 1 is empty"),
        ({"pre_start": ["x 'y"]}, "pre_start: command 1: a quote is not closed"),
        ({"ready": "exec:x 'y"}, 'ready: "exec:x \'y" cannot be split'),
    ],
)
def test_no_command_where_one_should_be(fields: dict[str, Any], reason: str) -> None:
    """`check` asks about all the rest of the service, and says what is wrong with that too."""
    with pytest.raises(ConfigError) as refused:
        said(command="no-such-program-x", **fields)
    (known,) = refused.value.problems
    partial: Any = refused.value.partial

    assert reason in str(known)
    assert [problem.path for problem in examine(partial, {"PATH": "/bin"})] == ["services.a.command"]


# -- programs that the user may not execute ---------------------------------------------------------------------------


def test_program_of_another_user(here: Path) -> None:
    script("priv/pg", 0o700)
    why = f'{here}/priv/pg: user "nobody" may not read and execute it {mode("priv/pg")}'
    out = f"chmod o+rx {here}/priv/pg, or give it to that user"

    assert said(command="priv/pg", user="nobody") == [f"command: {why}, {out}"]
    assert said(pre_start="priv/pg x", user="nobody") == [f"pre_start: {why}, {out}"]
    assert said(ready="exec:priv/pg", user="nobody") == [f"ready: {why}, {out}"]
    assert said(command="pg", user="nobody", env={"PATH": f"{here}/priv"}) == [f"command: {why}, {out}"]
    assert said(command="pg", user="nobody", env={"PATH": f"{here}/priv:{here}"}) != []
    assert said(command="priv/pg") == said(command="priv/pg", user="0") == []


def test_exec_goes_on_to_the_next_of_that_name(here: Path) -> None:
    script("priv/pg", 0o700)
    script("open/pg")

    assert said(command="pg", user="nobody", env={"PATH": f"{here}/priv:{here}/open"}) == []


def test_only_where_the_user_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    script("priv/pg", 0o700)
    monkeypatch.setattr(os, "geteuid", os.getuid if os.getuid() else lambda: NOBODY.pw_uid)

    assert [text for text in said(command="priv/pg", user="nobody") if "command" in text] == []


def test_program_in_a_closed_directory(here: Path) -> None:
    """It is said once, however much lies behind it."""
    script("priv/bin/pg")
    Path("priv").chmod(0o700)
    why = f'{here}/priv/bin/pg: user "nobody" may not read and execute it: it may not enter {here}/priv {mode("priv")}'

    found = said(command="priv/bin/pg", pre_start="priv/bin/pg", user="nobody")

    assert found == [f"command: {why}, chmod o+x {here}/priv, or choose another place"]


def test_link_in_a_closed_directory(here: Path) -> None:
    Path("priv").mkdir(0o700)
    Path("priv/pg").symlink_to("/bin/sh")
    Path("pg").symlink_to("priv/pg")

    (problem,) = said(command="./pg", user="nobody")
    assert f'{here}/./pg: user "nobody" may not execute it: it may not enter {here}/priv' in problem


def test_a_script_is_read_too(here: Path) -> None:
    script("pg", 0o711)

    (problem,) = said(command="./pg", user="nobody")
    assert problem.startswith(f'command: {here}/./pg: user "nobody" may not read and execute it {mode("pg")}, chmod')
    Path("pg").write_bytes(b"\x7fELF")
    assert said(command="./pg", user="nobody") == []


@pytest.mark.skipif(not ROOT, reason="only root can give files away")
def test_groups_of_the_service() -> None:
    """Its own, the one that `group` names instead, and those of the user database."""
    script("pg", 0o750)
    os.chown("pg", 0, 4_000_000)

    assert said(command="./pg", user="nobody") != []
    assert said(command="./pg", user="nobody", group="4000000") == []
    assert said(command="./pg", user="3999999999", group="4000000") == []
    os.chown("pg", 0, NOBODY.pw_gid)
    assert said(command="./pg", user="nobody") == []
    assert said(command="./pg", user="nobody", group="4000000") == []  # it stays in the group of its own
    assert said(command="./pg", user="3999999999", group="4000000") != []


def test_servant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getgrouplist", lambda name, gid: [gid, 7, 8])

    own = NOBODY.pw_gid
    assert handed_to(ServiceSpec(user="nobody")) == Person("nobody", NOBODY.pw_uid, [own, own, 7, 8])
    assert handed_to(ServiceSpec(user="nobody", group="5")) == Person("nobody", NOBODY.pw_uid, [5, own, 7, 8])
    assert handed_to(ServiceSpec(user="3999999999", group="5")) == Person("3999999999", 3999999999, [5])
    assert handed_to(ServiceSpec(user="3999999999")) is None
    assert handed_to(ServiceSpec(user="no-such-user-x")) is None
    assert handed_to(ServiceSpec(user="root")) is None
    assert handed_to(ServiceSpec(group="5")) is None
    monkeypatch.setattr(os, "geteuid", lambda: 5)
    assert handed_to(ServiceSpec(user="nobody")) is None


@pytest.mark.skipif(not ROOT, reason="only root can become another user")
def test_access_lists_are_obeyed(here: Path) -> None:
    """The mode of a home directory that nginx or a service was let into by setfacl(1) says nothing of that."""
    script("home/pg")
    Path("home").chmod(0o700)
    assert said(command="home/pg", user="nobody") != []

    undefined = 2**32 - 1
    rules = [(1, 7, undefined), (2, 1, NOBODY.pw_uid), (4, 0, undefined), (16, 1, undefined), (32, 0, undefined)]
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *rule) for rule in rules)
    try:
        os.setxattr("home", "system.posix_acl_access", acl)
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        pytest.skip("no access lists on this file system")

    assert said(command="home/pg", user="nobody") == []


def test_the_kernel_is_asked_only_about_those_kept_out(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script("fine")
    script("priv", 0o700)
    asked: list[str] = []

    def granted(path: str, who: Person, wanted: int) -> bool:
        asked.append(path)
        return True

    monkeypatch.setattr(reach, "_granted", granted)

    assert refusal("command", f"{here}/fine", STRANGER, EXECUTE, "execute") is None
    assert asked == []
    assert refusal("command", f"{here}/priv", STRANGER, EXECUTE, "execute") is None
    assert asked == [f"{here}/priv"]
    assert refusal("command", f"{here}/gone", STRANGER, READ, "read") is None


# -- interpreters -----------------------------------------------------------------------------------------------------


def test_interpreter_that_is_not_there(here: Path) -> None:
    script("gone", first="#! /no/such/python -u")
    script("directory", first="#!/usr")
    script("plain", 0o644)
    script("closed", first=f"#!{here}/plain")
    script("windows", first="#!/bin/sh\r")
    script("outer", first=f"#!{here}/gone")

    def about(name: str) -> str:
        (problem,) = said(command=f"./{name}")
        return problem.removeprefix(f"command: {here}/./{name}: its interpreter ")

    assert about("gone") == "/no/such/python: there is no such program"
    assert about("directory") == "/usr: is a directory, not a program"
    assert about("closed") == f"{here}/plain: may not be executed"
    assert about("windows") == "'/bin/sh\\r': there is no such program, its lines end as on Windows: dos2unix"
    assert about("outer") == f"{here}/gone: its interpreter /no/such/python: there is no such program"
    assert said(pre_start="./gone")[0].startswith("pre_start: ")


def test_interpreter_that_the_user_may_not_execute(here: Path) -> None:
    script("home/bin/python")
    Path("home").chmod(0o700)
    script("run", first=f"#!{here}/home/bin/python")

    (problem,) = said(command="./run", user="nobody")
    assert problem.startswith(
        f'command: {here}/./run: its interpreter {here}/home/bin/python: user "nobody" may not read and execute it: '
        f"it may not enter {here}/home"
    )
    assert said(command="./run") == []


def test_interpreter_by_env(here: Path) -> None:
    script("gone", first="#!/usr/bin/env no-such-python-x")
    script("fine", first="#!/usr/bin/env sh")
    script("split", first="#!/usr/bin/env -S no-such-python-x")

    (problem,) = said(command="./gone")
    assert problem.startswith(
        f'command: {here}/./gone: its interpreter /usr/bin/env: the program "no-such-python-x" is not on the PATH'
    )
    assert said(command="./fine") == said(command="./split") == []


def test_programs_without_an_interpreter(here: Path) -> None:
    """And a script that is its own: the kernel gives up, and so do we."""
    script("none", first="#!")
    script("text", first="echo")
    script("self", first=f"#!{here}/self")

    for name in ("none", "text", "self"):
        assert said(command=f"./{name}") == []


def test_python_that_the_user_may_not_execute(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor reach, by the link that it is in a virtual environment."""
    script("home/python")
    Path("venv/bin").mkdir(parents=True)
    Path("venv/bin/python").symlink_to(here / "home/python")
    Path("home").chmod(0o700)
    kept_out = f'user "nobody" may not read and execute it: it may not enter {here}/home'

    assert said(app="gone:x", venv="venv", user="nobody")[0].startswith(f"venv: {here}/venv/bin/python: {kept_out}")
    assert said(app="gone:x", python="home/python", user="nobody")[0].startswith(
        f"python: {here}/home/python: {kept_out}"
    )
    monkeypatch.setattr(sys, "executable", f"{here}/home/python")
    tree = {"services": {"a": {"app": "gone:x", "user": "nobody"}}, "sockets": {"a": {"bind": ":80"}}}
    (problem,) = examine(load(None, overlay=tree, environ={}), {"PATH": "/bin"})
    assert (problem.path, problem.reason.partition(": ")[0]) == ("services.a.user", f"{here}/home/python")
    assert said(app="gone:x", venv="venv") == []


# -- directories ------------------------------------------------------------------------------------------------------


def test_directory_that_the_user_may_not_enter(here: Path) -> None:
    script("priv/run")
    Path("priv").chmod(0o700)
    why = f'cwd: {here}/priv: user "nobody" may not enter it {mode("priv")}'

    assert said(cwd="priv", user="nobody") == [f"{why}, chmod o+x {here}/priv, or give it to that user"]
    assert len(said(cwd="priv", command="./run", user="nobody")) == 1
    assert said(cwd="priv") == []


def test_the_directory_of_the_file_is_nobodys_choice(here: Path) -> None:
    """A program that is named by its whole path runs there."""
    script("run")
    here.chmod(0o700)

    assert said(command="/bin/sh", user="nobody") == []
    assert len(said(command="./run", user="nobody")) == 1


def test_app_that_the_user_may_not_read(here: Path) -> None:
    script("priv/app.py", 0o644)
    Path("priv").chmod(0o711)
    why = f'app_dir: {here}/priv: user "nobody" may not read it {mode("priv")}'

    found = said(app="app:x", app_dir="priv", user="nobody")
    assert found == [f"{why}, chmod o+rx {here}/priv, or give it to that user"]
    assert said(app="app:x", app_dir="priv") == []
    assert said(app="elsewhere", app_dir="priv", user="nobody") == []  # it may be installed
    Path("priv").chmod(0o755)
    assert said(app="app:x", app_dir="priv", user="nobody") == []


def test_app_in_the_directory_of_the_file(here: Path) -> None:
    script("shop/wsgi.py", 0o600)

    (problem,) = said(app="shop.wsgi:x", user="nobody")
    assert problem.startswith(f'app: {here}/shop/wsgi.py: user "nobody" may not read it {mode("shop/wsgi.py")}, chmod')
    Path("shop").chmod(0o700)
    (problem,) = said(app="shop.wsgi:x", user="nobody")
    assert problem.startswith(f'app_dir: {here}/shop: user "nobody" may not read it')
    here.chmod(0o700)
    (problem,) = said(app="shop.wsgi:x", user="nobody")
    assert problem.startswith(f'app_dir: {here}: user "nobody" may not read it')


# -- the way of a path ------------------------------------------------------------------------------------------------


def test_entries_follow_links(here: Path) -> None:
    for name in ("a", "b", "c"):
        Path(name).mkdir()
    Path("c/file").touch()
    Path("a/link").symlink_to("../b/link")
    Path("b/link").symlink_to(here / "c")
    Path("round").symlink_to("round")

    way = [entry.path for entry in entries("a/link/file")]
    assert way[0] == "/"
    assert [path for path in way if path.startswith(f"{here}/")] == [
        f"{here}/{name}" for name in ("a", "b", "c", "c/file")
    ]
    assert way[-1] == f"{here}/c/file"
    assert [entry.path for entry in entries("a/..")][-2:] == [f"{here}/a", str(here)]
    assert entries("/")[-1].path == "/"
    assert isinstance(entries("/")[0], Entry)
    with pytest.raises(OSError, match="symbolic links"):
        entries("round")
    with pytest.raises(FileNotFoundError):
        entries("gone")
