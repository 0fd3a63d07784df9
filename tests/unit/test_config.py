"""`config.load`: precedence, environment variables, resolved values, origins; and what a reload compares."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from trapeze import config
from trapeze.config import Resolved, load
from trapeze.errors import ConfigError
from trapeze.spec import Config, RestartSpec, ServiceSpec, SocketSpec

SHOP = """
name = "shop"

[sockets.web]
bind = "unix:run/web.sock"
mode = "0660"
group = "www-data"

[services.web]
app = "shop.wsgi:application"
backend = "auto"
workers = 4
venv = ".venv"

[services.redis]
command = "redis-server --port 6390 --supervised systemd"
ready = "notify"

[services.jobs]
command = "celery -A shop worker -Q 'a b'"
workers = 2
after = ["redis"]
"""
WEB = {"sockets": {"web": {"bind": ":80"}}, "services": {"web": {"app": "shop:app"}}}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(text: str, name: str = "trapeze.toml") -> str:
    path = Path(name)
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o644)
    return name


def loaded(text: str, overlay: dict[str, Any] | None = None, environ: Mapping[str, str] = {}) -> Resolved:
    return load(written(text), overlay=overlay or {}, environ=environ)


def problems(path: str | None = None, environ: Mapping[str, str] = {}) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(path, environ=environ)
    return [str(problem) for problem in caught.value.problems]


# -- resolved values --------------------------------------------------------------------------------------------------


def test_file(here: Path) -> None:
    found = loaded(SHOP)

    web, redis, jobs = found.config.services.values()
    assert found.path == f"{here}/trapeze.toml"
    assert found.directory == str(here)
    assert found.config.name == "shop"
    assert found.config.sockets["web"].bind == f"unix:{here}/run/web.sock"
    assert (web.workers, web.socket, web.venv, web.app_dir, web.cwd) == (
        4,
        "web",
        f"{here}/.venv",
        str(here),
        str(here),
    )
    assert redis.command == ["redis-server", "--port", "6390", "--supervised", "systemd"]
    assert jobs.command == ["celery", "-A", "shop", "worker", "-Q", "a b"]
    assert jobs.app_dir is None


def test_paths_are_relative_to_the_file_and_those_of_flags_to_the_current_directory(here: Path) -> None:
    text = '[sockets.web]\nbind = ["unix:w.sock", ":80"]\n[services.web]\napp = "a"\ncwd = "src"\nenv_file = ".env"\n'
    path = written(text, "etc/shop.toml")

    found = load(
        path,
        overlay={"services": {"web": {"app_dir": "lib", "venv": "/v"}}},
        overlay_origins={"services.web.app_dir": "flag --app-dir", "services.web.venv": "flag --venv"},
        environ={},
    )

    web = found.config.services["web"]
    assert (web.cwd, web.env_file) == (f"{here}/etc/src", [f"{here}/etc/.env"])
    assert (web.app_dir, web.venv) == (f"{here}/lib", "/v")
    assert found.config.sockets["web"].bind == [f"unix:{here}/etc/w.sock", ":80"]
    assert found.origins["services.web.cwd"] == "etc/shop.toml"


def test_two_dots_stay_for_the_kernel(here: Path) -> None:
    assert loaded('[services.a]\ncommand = "x"\ncwd = "current/../lib"\n').config.services["a"].cwd == (
        f"{here}/current/../lib"
    )


def test_without_a_file(here: Path) -> None:
    found = load(None, overlay=WEB, environ={})

    assert (found.path, found.directory) == (None, str(here))
    assert found.config.services["web"].socket == "web"


def test_a_shell_command_stays_one_text() -> None:
    found = loaded('[services.a]\ncommand = "echo \'it"\nshell = true\n')

    assert found.config.services["a"].command == "echo 'it"


def test_a_byte_order_mark_is_no_error() -> None:
    assert loaded("\ufeff" + SHOP).config.name == "shop"


# -- precedence and origins -------------------------------------------------------------------------------------------


def test_precedence() -> None:
    path = written(SHOP)
    web = "services.web.workers"
    variable = {"TRAPEZE_SERVICES__WEB__WORKERS": "8"}
    overlay = {"services": {"web": {"workers": 16}}}
    given = {web: "flag --workers"}

    default = load(written("[sockets.web]\nbind=':1'\n[services.web]\napp='a'\n", "small.toml"), environ={})
    file = load(path, environ={})
    environment = load(path, environ=variable)
    flag = load(path, overlay=overlay, overlay_origins=given, environ=variable)

    results = [
        (found.config.services["web"].workers, found.origins[web]) for found in (default, file, environment, flag)
    ]
    assert results == [
        (1, "default"),
        (4, "trapeze.toml"),
        (8, "environment TRAPEZE_SERVICES__WEB__WORKERS"),
        (16, "flag --workers"),
    ]


def test_every_leaf_has_an_origin() -> None:
    found = loaded(SHOP + "[services.web.env]\nA = 1\n[services.web.options]\na = { b = [1], c = {} }\n")

    def leaves(value: Any, path: str) -> list[str]:
        if not isinstance(value, dict) or not value:
            return [path]
        return [leaf for key, inner in value.items() for leaf in leaves(inner, f"{path}.{key}" if path else key)]

    assert list(found.origins) == leaves(msgspec.to_builtins(found.config), "")
    assert found.origins["services.web.env.A"] == "trapeze.toml"
    assert found.origins["services.web.options.a.c"] == "trapeze.toml"
    assert found.origins["services.web.socket"] == "default"
    assert found.origins["control.mode"] == "default"


def test_tables_are_merged_key_by_key_and_lists_as_a_whole() -> None:
    text = SHOP + '[services.web.env]\nA = "file"\nB = "file"\n'

    found = loaded(text, {"services": {"web": {"env": {"B": "flag"}}, "jobs": {"after": []}}})

    assert found.config.services["web"].env == {"A": "file", "B": "flag"}
    assert found.config.services["jobs"].after == []


@pytest.mark.parametrize(
    ("below", "above", "expected"),
    [
        ("'on-failure'", {"intensity": 9}, RestartSpec(policy="on-failure", intensity=9)),
        ("{ intensity = 9 }", "never", RestartSpec(policy="never", intensity=9)),
        ("'on-failure'", "never", RestartSpec(policy="never")),
        ("{ intensity = 9 }", {"cap": 2}, RestartSpec(intensity=9, cap=2)),
    ],
)
def test_restart_may_be_a_word_or_a_table(below: str, above: object, expected: RestartSpec) -> None:
    found = loaded(f"[services.a]\ncommand = 'x'\nrestart = {below}\n", {"services": {"a": {"restart": above}}})

    assert found.config.services["a"].restarts == expected


def test_none_in_the_overlay_is_not_given() -> None:
    found = loaded(SHOP, {"name": None, "services": {"web": {"workers": None}}})

    assert (found.config.name, found.config.services["web"].workers) == ("shop", 4)


def test_default_bind() -> None:
    app = {"services": {"web": {"app": "a"}}}
    address = {"web": "127.0.0.1:8000"}

    plain = load(None, overlay=app, default_bind=address, environ={})
    variable = load(None, overlay=app, default_bind=address, environ={"TRAPEZE_SOCKETS__WEB__BIND": ":1"})
    backlog = load(None, overlay=app, default_bind=address, environ={"TRAPEZE_SOCKETS__WEB__BACKLOG": "9"})
    file = load(written("[sockets.web]\nbind = ':2'\n"), overlay=app, default_bind=address, environ={})
    other = load(
        written("[sockets.x]\nbind = ':3'\n[services.web]\nsocket = 'x'\n"),
        overlay=app,
        default_bind=address,
        environ={},
    )

    assert plain.config.sockets == {"web": SocketSpec(bind="127.0.0.1:8000")}
    assert plain.origins["sockets.web.bind"] == "default"
    assert variable.config.sockets["web"].bind == ":1"
    assert backlog.config.sockets["web"] == SocketSpec(bind="127.0.0.1:8000", backlog=9)
    assert file.config.sockets["web"].bind == ":2"
    assert list(other.config.sockets) == ["x"]


# -- environment ------------------------------------------------------------------------------------------------------


def test_environment_by_type() -> None:
    given = {
        "NAME": "other",
        "CONTROL__MODE": "0660",
        "SOCKETS__WEB__BIND": '["127.0.0.1:1", "[::1]:1"]',
        "SERVICES__WEB__THREADS": "8",
        "SERVICES__WEB__ACCESS_LOG": "true",
        "SERVICES__WEB__STOP_TIMEOUT": "2.5",
        "SERVICES__WEB__USER": "1000",
        "SERVICES__WEB__ENV__DATABASE_URL": "postgres://x",
        "SERVICES__WEB__ENV__A__B": "[not a list",
        "SERVICES__WEB__OPTIONS": "{ worker_class = 'gevent' }",
        "SERVICES__WEB__OPTIONS__TIMEOUT": "30",
        "SERVICES__WEB__OPTIONS__PRELOAD": "false",
        "SERVICES__WEB__OPTIONS__LABEL": "2026-01-01",
        "SERVICES__WEB__RLIMITS__NOFILE": "1024:4096",
        "SERVICES__WEB__SOCKET": "web",
        "SERVICES__JOBS__RESTART__INTENSITY": "7",
        "SERVICES__JOBS__AFTER": "[]",
        "SERVICES__REDIS__RESTART": "never",
    }

    found = loaded(
        SHOP.replace('mode = "0660"\ngroup = "www-data"\n', ""),
        environ={f"TRAPEZE_{name}": value for name, value in given.items()},
    )

    web, redis, jobs = found.config.services.values()
    assert (found.config.name, found.config.control.mode) == ("other", "0660")
    assert found.config.sockets["web"].bind == ["127.0.0.1:1", "[::1]:1"]
    assert (web.threads, web.access_log, web.stop_timeout, web.user) == (8, True, 2.5, "1000")
    assert web.env == {"DATABASE_URL": "postgres://x", "A__B": "[not a list"}
    assert web.options == {"worker_class": "gevent", "timeout": 30, "preload": False, "label": "2026-01-01"}
    assert web.rlimits == {"nofile": "1024:4096"}
    assert (jobs.after, jobs.restarts) == ([], RestartSpec(intensity=7))
    assert redis.is_task
    assert found.origins["services.web.env.A__B"] == "environment TRAPEZE_SERVICES__WEB__ENV__A__B"


@pytest.mark.parametrize("name", ["my-app", "My_App", "my.app"])
def test_environment_finds_names_however_they_are_written(name: str) -> None:
    text = f'[services."{name}"]\ncommand = "x"\n'

    assert loaded(text, environ={"TRAPEZE_SERVICES__MY_APP__WORKERS": "3"}).config.services[name].workers == 3


def test_environment_may_define_a_service_and_its_socket() -> None:
    found = load(
        None,
        environ={"TRAPEZE_SERVICES__API__APP": "api:app", "TRAPEZE_SOCKETS__API__BIND": ":80"},
    )

    assert found.config.services["api"].socket == "api"


def test_other_variables_are_no_configuration() -> None:
    others = ("SERVICE", "INDEX", "GENERATION", "RUNTIME_DIR", "CONFIG", "SERVICES_WEB_WORKERS", "NAMES", "X__Y")

    assert loaded(SHOP, environ={f"TRAPEZE_{name}": "x" for name in others}).config == loaded(SHOP).config


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("SERVICES__WEB__WORKER", "4", 'services.web.worker: unknown key, did you mean "workers"?'),
        ("SERVICES__WBE__WORKERS", "4", 'services.wbe: there is no such service, did you mean "web"?'),
        ("SERVICES__ZZZ__WORKERS", "4", "services.zzz: there is no such service, there are jobs, redis, web"),
        ("SOCKETS__ZZZ__MODE", "0600", "sockets.zzz: there is no such socket, there are web"),
        ("SERVICES__WEB", "4", "names no field, write TRAPEZE_SERVICES__NAME__FIELD"),
        ("SERVICES__WEB__WORKERS__X", "4", 'services.web.workers.x: unknown key, "workers" is no table'),
        ("SERVICES__WEB__RESTART__PERID", "4", 'services.web.restart.perid: unknown key, did you mean "period"?'),
        ("CONTROL__MOD", "4", 'control.mod: unknown key, did you mean "mode"?'),
        ("SERVICES__WEB__WORKERS", "four", 'services.web.workers: expected a whole number, got text "four"'),
        ("SERVICES__WEB__WORKERS", "-1", "services.web.workers: must be at least 0, got -1"),
        ("SERVICES__WEB__ACCESS_LOG", "perhaps", 'services.web.access_log: expected true or false, got text "perhaps"'),
        ("SERVICES__JOBS__AFTER", "[redis]", 'services.jobs.after: expected a list of texts, got text "[redis]"'),
        ("SERVICES__WEB__ENV", "{", 'services.web.env: expected a table, got text "***"'),
    ],
)
def test_wrong_variables_are_problems_with_their_name(variable: str, value: str, said: str) -> None:
    found = problems(written(SHOP), {f"TRAPEZE_{variable}": value})

    assert found == [f"environment TRAPEZE_{variable}: {said}"]


def test_a_variable_that_fits_two_names_is_a_problem() -> None:
    text = '[services.a-b]\ncommand = "x"\n[services.a_b]\ncommand = "y"\n[services."a.b"]\ncommand = "z"\n'
    variable = {"TRAPEZE_SERVICES__A_B__WORKERS": "3"}

    assert loaded(text, environ=variable).config.services["a_b"].workers == 3
    assert problems(written(text.replace("a_b", "A-b")), variable) == [
        "environment TRAPEZE_SERVICES__A_B__WORKERS: services.a_b: could be any of A-b, a-b, a.b, rename one of them"
    ]


# -- problems ---------------------------------------------------------------------------------------------------------


def test_a_wrong_flag_is_called_by_its_name() -> None:
    with pytest.raises(ConfigError) as caught:
        load(
            written(SHOP),
            overlay={"services": {"web": {"workers": -1, "command": "x"}}},
            overlay_origins={"services.web.workers": "flag --workers", "services.web.command": "argument COMMAND"},
            environ={},
        )

    assert caught.value.exit_code == 2
    workers, both = map(str, caught.value.problems)
    assert workers == "flag --workers: services.web.workers: must be at least 0, got -1"
    assert both.endswith(
        "services.web: has both app and command (app from trapeze.toml, command from argument COMMAND), "
        "a service is one or the other"
    )


def test_problems_without_a_file() -> None:
    assert problems() == ["services: nothing to run, add [services.NAME] with app or command"]


@pytest.mark.parametrize(
    ("name", "said"),
    [("missing.toml", "cannot be read: no such file or directory"), (".", "cannot be read: is a directory")],
)
def test_unreadable_file(here: Path, name: str, said: str) -> None:
    shown = str(here) if name == "." else name

    assert problems(name) == [f"{shown}: {said}"]


def test_a_file_that_is_not_text() -> None:
    Path("trapeze.toml").write_bytes(b'name = "a"\nx = "\xff"\n')

    assert problems("trapeze.toml") == ["trapeze.toml: line 2, column 6: not UTF-8 text"]


def test_a_file_nested_too_deeply() -> None:
    path = written("a = " + "[" * 100_000)

    assert problems(path) == ["trapeze.toml: lists or tables are nested too deeply"]


@pytest.mark.skipif(os.geteuid() != 0, reason="root only")
def test_root_reads_no_file_that_others_can_write(here: Path) -> None:
    path = Path(written(SHOP))

    def said(mode: int, uid: int = 0, gid: int = 0) -> list[str]:
        os.chown(path, uid, gid)
        path.chmod(mode)
        return problems(str(path))

    start = "trapeze.toml: refused: root does not read a file that "
    assert said(0o646) == [start + "everybody can write, chmod o-w it"]
    assert said(0o664, gid=33) == [start + "group 33 can write, chmod g-w it"]
    assert said(0o644, uid=33) == [start + "belongs to user 33, chown it to root"]
    os.chown(path, 0, 33)
    path.chmod(0o644)
    assert load(str(path), environ={}).config.name == "shop"
    os.chown(path, 33, 0)
    path.chmod(0o664)
    assert load(str(path), environ={"SUDO_UID": "33"}).config.name == "shop"


# -- what others ask --------------------------------------------------------------------------------------------------


def services(**after: list[str]) -> Config:
    return Config(services={name: ServiceSpec(command="x", after=others) for name, others in after.items()})


def test_start_order() -> None:
    assert config.start_order(services(web=["redis"], a=[], redis=["disk"], disk=[], b=["web"])) == [
        "a",
        "disk",
        "redis",
        "web",
        "b",
    ]
    assert config.start_order(services(c=[], b=[], a=[])) == ["c", "b", "a"]
    assert config.start_order(services(a=["b"], b=["a"], c=["nowhere"])) == ["c", "a", "b"]


def test_diff() -> None:
    old = loaded(SHOP).config
    new = loaded(SHOP.replace("[services.redis]", "[services.valkey]").replace('"redis"', '"valkey"')).config
    more = loaded(SHOP.replace("0660", "0600") + '[sockets.x]\nbind = ":1"\n').config

    assert config.diff(old, old) == config.Changes((), (), (), (), (), ())
    assert config.diff(old, new) == config.Changes(("valkey",), ("redis",), ("jobs",), (), (), ())
    assert config.diff(old, more) == config.Changes((), (), (), ("x",), (), ("web",))
    assert config.diff(more, old) == config.Changes((), (), (), (), ("x",), ("web",))


def test_masked() -> None:
    found = loaded(
        SHOP
        + """
[services.web.env]
DATABASE_URL = "postgres://u:hunter2@h"
DEBUG = true
[services.web.options]
timeout = 30
db_password = "hunter2"
API_TOKEN = "hunter2"
nested = [{ secret_key = "hunter2", plain = 1 }]
"""
    )

    shown = config.masked(found)

    assert "hunter2" not in json.dumps(shown)
    assert shown["services"]["web"]["env"] == {"DATABASE_URL": "***", "DEBUG": "***"}
    assert shown["services"]["web"]["options"] == {
        "timeout": 30,
        "db_password": "***",
        "API_TOKEN": "***",
        "nested": [{"secret_key": "***", "plain": 1}],
    }
    assert found.config.services["web"].options["db_password"] == "hunter2"


def test_schema() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    tomllib = pytest.importorskip("tomllib")
    made = config.schema()
    jsonschema.Draft202012Validator.check_schema(made)
    validator = jsonschema.Draft202012Validator(made)

    assert list(validator.iter_errors(tomllib.loads(SHOP))) == []
    assert [error.validator for error in validator.iter_errors({"services": {"web": {"worker": 4}}})] == [
        "additionalProperties"
    ]
    assert made["title"] == "trapeze.toml"


def test_schema_describes_every_field() -> None:
    for name, struct in config.schema()["$defs"].items():
        for field, about in struct["properties"].items():
            assert about.get("description"), f"{name}.{field}"
