"""`preflight.examine`: what only this machine can tell."""

from __future__ import annotations

import grp
import os
import pwd
import resource
from pathlib import Path
from typing import Any

import pytest

from trapeze import preflight
from trapeze.config import load
from trapeze.preflight import examine
from trapeze.programs import candidates
from trapeze.reach import Account, account

ROOT = os.geteuid() == 0
NOBODY = "no-such-user-x"


@pytest.fixture(autouse=True)
def here(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(run_dir)
    return run_dir


@pytest.fixture
def not_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if an ordinary user had started it, who is in no group but his own."""
    monkeypatch.setattr(os, "geteuid", lambda: 4_000_000)
    monkeypatch.setattr(preflight, "capable", lambda capability: False)
    monkeypatch.setattr(os, "getegid", lambda: 4_000_000)
    monkeypatch.setattr(os, "getgroups", list)


def program(path: str, mode: int = 0o755) -> str:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text("#!/bin/sh\n")
    Path(path).chmod(mode)
    return path


def said(tree: dict[str, Any], environ: dict[str, str] | None = None) -> list[str]:
    resolved = load(None, overlay=tree, environ={})
    return [str(problem) for problem in examine(resolved, {"PATH": "/bin:/usr/bin"} if environ is None else environ)]


def service(**fields: Any) -> dict[str, Any]:
    return {"services": {"a": {"command": ["/bin/sh"], **fields}}}


def socket(**fields: Any) -> dict[str, Any]:
    return {**service(), "sockets": {"s": fields}}


def test_all_is_well(here: Path) -> None:
    me = pwd.getpwuid(os.geteuid()).pw_name
    program(f"{here}/.venv/bin/python")
    fields = {"user": me, "group": str(os.getegid()), "cwd": ".", "pre_start": "sh -c true", "ready": "exec:sh -c true"}

    assert said(service(**fields, rlimits={"core": 0}, nice=19)) == []
    assert said(socket(bind=["unix:x.sock", "127.0.0.1:0", "[::1]:0"], mode="0660")) == []
    assert said(socket(bind=["unix:@x", "fd://3", "systemd:web"])) == []
    assert said({"services": {"a": {"app": "a", "venv": ".venv"}}, "sockets": {"a": {"bind": "unix:x.sock"}}}) == []


def test_users_and_groups_that_do_not_exist() -> None:
    tree = {
        "control": {"group": NOBODY},
        "sockets": {"s": {"bind": "unix:x.sock", "owner": NOBODY, "group": NOBODY}},
        **service(user=NOBODY, group=NOBODY),
    }
    user = f'there is no user "{NOBODY}" on this machine, useradd --system {NOBODY}, or name another'
    group = f'there is no group "{NOBODY}" on this machine, groupadd {NOBODY}, or name another'

    assert said(tree) == [
        f"flag: control.group: {group}",
        f"flag: sockets.s.owner: {user}",
        f"flag: sockets.s.group: {group}",
        f"flag: services.a.user: {user}",
        f"flag: services.a.group: {group}",
    ]


OURS = str(os.getegid())


@pytest.mark.parametrize("control", [{"group": "4000000"}, {"mode": "0666"}])
@pytest.mark.usefixtures("not_root")
def test_control_socket_in_a_private_directory(control: dict[str, str], here: Path) -> None:
    """Its own mode and group say that others may use it, and nobody can reach it."""
    tree = {"control": control, **service()}
    field = next(iter(control))

    (problem,) = said(tree)
    assert problem.startswith(f"flag: control.{field}: does nothing here: the runtime directory of a user who is not")
    assert "set TRAPEZE_RUNTIME_DIR" in problem
    assert said(tree, {"PATH": "/bin", "TRAPEZE_RUNTIME_DIR": f"{here}/to-be-made"}) == []


def test_control_socket_in_a_directory_that_is_closed(here: Path) -> None:
    """One that is there is left as it is, so its mode has to be right already."""
    place = here / "place"
    place.mkdir(mode=0o700)
    environ = {"PATH": "/bin", "TRAPEZE_RUNTIME_DIR": str(place)}
    tree = {"control": {"group": OURS}, **service()}
    closed = f"flag: control.group: does nothing here: others may not enter the runtime directory {place}"

    assert said(tree, environ) == [f"{closed}, chmod o+x {place}"]
    place.chmod(0o750)  # its group is the one that is named
    assert said(tree, environ) == []
    assert said({"control": {"mode": "0666"}, **service()}, environ) != []
    place.chmod(0o711)
    assert said({"control": {"mode": "0666"}, **service()}, environ) == []
    assert said({"control": {"mode": "0600"}, **service()}, environ) == []


@pytest.mark.usefixtures("not_root")
def test_users_and_groups_need_root() -> None:
    group = grp.getgrgid(0).gr_name

    assert said(service(user="root", group=group)) == [
        'flag: services.a.user: only root can use user "root", start trapeze as root or as root, or leave it out',
        (
            f'flag: services.a.group: this user is not in group "{group}" and cannot give it away, '
            f"add the user to {group}, or start trapeze as root"
        ),
    ]


def test_a_number_without_a_user_has_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)

    assert said(service(user="3999999999")) == [
        'flag: services.a.user: no user has the number 3999999999, so it has no group, add group = "..."'
    ]
    assert said(service(user="3999999999", group="3999999999")) == []


def test_account() -> None:
    assert account("0") == account(pwd.getpwuid(0).pw_name) == Account(0, pwd.getpwuid(0).pw_gid)
    assert account("3999999999") == Account(3999999999, None)
    assert account(NOBODY) is None


# -- sockets ----------------------------------------------------------------------------------------------------------


def test_socket_directory(here: Path) -> None:
    Path("taken").mkdir()

    assert said(socket(bind=["unix:run/x.sock", "unix:taken"])) == [
        f"flag: sockets.s.bind: unix:{here}/run/x.sock: there is no directory {here}/run, mkdir -p {here}/run",
        f"flag: sockets.s.bind: unix:{here}/taken: is a directory",
    ]


def test_a_relative_path_may_be_too_long_only_as_an_absolute_one() -> None:
    found = said(socket(bind="unix:" + "x" * 100))

    assert len(found) == 1
    assert "too long for a Unix socket" in found[0]
    assert found[0].endswith("choose a shorter directory, such as /run/NAME")


@pytest.mark.skipif(ROOT, reason="root may write anywhere")
def test_socket_directory_without_permission() -> None:
    assert "no permission" in said(socket(bind="unix:/etc/x.sock"))[0]


# -- programs and directories -----------------------------------------------------------------------------------------


def test_missing_programs(here: Path) -> None:
    program("plain", 0o644)
    Path("dir").mkdir()

    def about(command: str) -> list[str]:
        return [text.removeprefix("flag: services.a.command: ") for text in said(service(command=command))]

    hint = "install it, give its whole path, or set PATH in env"
    assert about("no-such-program-x y") == [f'the program "no-such-program-x" is not on the PATH, {hint}']
    assert about("./plain") == [f"{here}/./plain: may not be executed, chmod +x {here}/./plain"]
    assert about("/no/such/program") == ["/no/such/program: there is no such program"]
    assert about("./dir") == [f"{here}/./dir: is a directory, not a program"]


def test_programs_are_looked_up_as_the_service_will(here: Path) -> None:
    program("bin/tool")
    program("src/run")
    Path(".env").write_text(f"TOOLS={here}/bin\n")
    Path(".env").chmod(0o644)

    assert said(service(command="tool", env={"PATH": f"/bin:{here}/bin"})) == []
    assert said(service(command="tool", env={"PATH": "../bin"}, cwd="src")) == []
    assert said(service(command="./run", cwd="src")) == []
    assert said(service(command="{env:TOOLS}/tool {env:TRAPEZE_SERVICE}", env_file=".env")) == []
    assert said(service(command="x {fd", shell=True)) == []
    assert said(service(command="tool"), {"PATH": f"{here}/bin"}) == []
    assert said(service(command="/bin/sh {env:NOWHERE_X}")) == [
        "flag: services.a.command: the environment has no NOWHERE_X, add it to env, or drop {env:NOWHERE_X}"
    ]


def test_every_program_of_a_service() -> None:
    found = said(service(pre_start=["sh", "no-such-a x"], ready="exec:no-such-b"))

    assert [text.partition(", ")[0] for text in found] == [
        'flag: services.a.pre_start: the program "no-such-a" is not on the PATH',
        'flag: services.a.ready: the program "no-such-b" is not on the PATH',
    ]


def test_directories(here: Path) -> None:
    program("file")
    Path("empty").mkdir()
    sockets = {"sockets": {"a": {"bind": ":80"}}}

    assert said(service(cwd="gone")) == [f"flag: services.a.cwd: {here}/gone: there is no such directory"]
    assert said({**sockets, "services": {"a": {"app": "a", "app_dir": "file", "venv": "gone"}}}) == [
        f"flag: services.a.app_dir: {here}/file: is not a directory",
        f"flag: services.a.venv: {here}/gone: there is no such directory, python3 -m venv {here}/gone",
    ]
    assert said({**sockets, "services": {"a": {"app": "a", "venv": "empty"}}}) == [
        (
            f"flag: services.a.venv: {here}/empty/bin/python: there is no such program, "
            "name the directory that has bin/python in it"
        ),
    ]


def test_socket_that_would_be_taken_for_an_instance(here: Path) -> None:
    """`trapeze status` would say that two of them are running."""
    environ = {"PATH": "/bin", "TRAPEZE_RUNTIME_DIR": str(here)}

    (problem,) = said(socket(bind=f"unix:{here}/web.sock"), environ)
    assert problem.startswith(f"flag: sockets.s.bind: unix:{here}/web.sock: in that directory it would be taken for")
    assert problem.endswith('instance "web", choose another directory')
    assert said(socket(bind=f"unix:{here}/web.socket"), environ) == []
    assert said(socket(bind=f"unix:{here}/web.sock")) == []


def test_programs_beside_a_wrong_env_file(here: Path) -> None:
    """All problems at once; but a variable that the file may have is not called missing."""
    gone = f"flag: services.a.env_file: {here}/gone: cannot be read: no such file or directory"

    file, program = said(service(command="nosuchprogram --x", env_file="gone"))
    assert file == gone
    assert program.startswith('flag: services.a.command: the program "nosuchprogram" is not on the PATH')
    assert said(service(pre_start="{env:TOOLS}/tool", env_file="gone")) == [gone]


def test_env_files(here: Path) -> None:
    Path("bad").write_text("A=1\nhunter2\n")
    Path("bad").chmod(0o644)

    assert said(service(env_file=["gone", "bad"])) == [
        f"flag: services.a.env_file: {here}/gone: cannot be read: no such file or directory",
        f"flag: services.a.env_file: {here}/bad: line 2: is no NAME=value, comments begin with #",
    ]


def test_candidates(here: Path) -> None:
    program("bin/tool")

    assert candidates("tool", "/", f"/nowhere:{here}/bin") == [f"{here}/bin/tool"]
    assert candidates("bin/tool", str(here), "") == [f"{here}/bin/tool"]
    assert candidates("tool", "/", "/nowhere") == []


# -- limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("not_root")
def test_limits_of_an_ordinary_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda number: (0, 100))
    monkeypatch.setattr(os, "getpriority", lambda which, who: 0)
    hint = "lower it, or raise the hard limit that trapeze itself is started with"

    assert said(service(rlimits={"nofile": 100, "core": "10:100"}, nice=0)) == []
    assert said(service(rlimits={"nofile": 101, "core": "unlimited"}, nice=-1)) == [
        f"flag: services.a.rlimits.nofile: 101 is above the hard limit of 100, {hint}",
        f"flag: services.a.rlimits.core: unlimited is above the hard limit of 100, {hint}",
        "flag: services.a.nice: only root can go below 0, not to -1",
    ]


def test_root_raises_limits_up_to_those_of_the_kernel(monkeypatch: pytest.MonkeyPatch, here: Path) -> None:
    monkeypatch.setattr(preflight, "capable", lambda capability: True)
    monkeypatch.setattr(resource, "getrlimit", lambda number: (100, 100))
    monkeypatch.setattr(preflight, "_NR_OPEN", str(here / "nr_open"))
    assert said(service(rlimits={"nofile": 2000}, nice=-20)) == []

    Path("nr_open").write_text("1000\n")

    assert said(service(rlimits={"nofile": 1000, "core": 5000})) == []
    assert said(service(rlimits={"nofile": "10:1001"})) == [
        "flag: services.a.rlimits.nofile: 1001 is above the hard limit of 1000, lower it"
    ]


def test_root_lends_limits_to_other_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "capable", lambda capability: True)
    monkeypatch.setattr(
        preflight, "_prelude", lambda spec: []
    )  # whether that user can run our Python is another matter
    monkeypatch.setattr(resource, "getrlimit", lambda number: (100, 100))

    assert said(service(rlimits={"nofile": 101}, user="3999999999", group="1")) == []
    assert said(service(rlimits={"nofile": 101}, user="0")) == []


def test_no_limit_is_above_infinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda number: (0, resource.RLIM_INFINITY))

    assert said(service(rlimits={"core": "unlimited", "stack": 5})) == []
