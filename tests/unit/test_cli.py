"""The command line as far as it goes without a supervisor: parsing, overlays, usage errors, completion."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from trapeze import app
from trapeze.cli import cli
from trapeze.cli.run import build_overlay, parse_options
from trapeze.config import Resolved
from trapeze.errors import BindError, ConfigError, Problem, StartFailed


@pytest.fixture(name="here", autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory, and an environment that configures nothing."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("TRAPEZE_")]:
        monkeypatch.delenv(name)
    return tmp_path


@pytest.fixture(name="ran")
def _ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Resolved, bool]]:
    """What `app.run` would have run."""
    ran: list[tuple[Resolved, bool]] = []

    def run(load: Callable[[], Resolved], *, keep_going: bool = False) -> int:
        ran.append((load(), keep_going))
        return 0

    monkeypatch.setattr(app, "run", run)
    return ran


def invoke(*args: str) -> Result:
    return CliRunner().invoke(cli, list(args), prog_name="trapeze")


def told(result: Result) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    return result.exit_code, result.stdout, result.stderr


# -- serve ------------------------------------------------------------------------------------------------------------


def test_an_address_for_each_worker() -> None:
    for bind in ((), ("unix:a.sock",)):
        overlay, origins = build_overlay(bind, None, None, {"app": "shop:app", "per_worker": True}, {})
        assert overlay["sockets"]["web"]["listen"] == "per-worker"
        assert "per_worker" not in overlay["services"]["web"]
        assert origins["sockets.web.listen"] == "flag --per-worker"


def test_serve_alone(ran: list[tuple[Resolved, bool]], here: Path) -> None:
    assert told(invoke("serve", "shop:app")) == (0, "", "")

    [(resolved, keep_going)] = ran
    assert resolved.config.services["web"].app == "shop:app"
    assert resolved.config.sockets["web"].addresses == ["127.0.0.1:8000"]
    assert resolved.origins["services.web.app"] == "argument APP"
    assert resolved.origins["sockets.web.bind"] == "default"
    assert keep_going is False


def test_serve_with_everything(ran: list[tuple[Resolved, bool]], here: Path) -> None:
    (here / "src").mkdir()
    result = invoke(
        *("--name", "shop", "serve", "shop:make", "-w", "4", "--bind", ":8000", "-b", "unix:/run/shop.sock"),
        *("--backend", "gunicorn", "--app-dir", "src", "--factory", "--venv", "env", "--threads", "8"),
        *("--access-log", "--option", "worker_class=gthread", "--option", "backlog=64", "--reload"),
    )

    assert told(result) == (0, "", "")
    config = ran[0][0].config
    web = config.services["web"]
    assert config.name == "shop"
    assert config.sockets["web"].addresses == [":8000", "unix:/run/shop.sock"]
    assert (web.workers, web.backend, web.factory, web.threads, web.watch) == (4, "gunicorn", True, 8, True)
    assert (web.app_dir, web.venv) == (str(here / "src"), str(here / "env"))
    assert web.options == {"worker_class": "gthread", "backlog": 64}
    assert web.access_log is True


def test_serve_reads_the_file_again_at_each_reload(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[Callable[[], Resolved]] = []

    def run(load: Callable[[], Resolved], *, keep_going: bool = False) -> int:
        loads.append(load)
        return 3

    monkeypatch.setattr(app, "run", run)
    file = here / "trapeze.toml"
    file.write_text('[services.web]\nworkers = 2\n[services.redis]\ncommand = "redis-server"\n')

    assert invoke("serve", "shop:app", "--config", str(file), "--threads", "3").exit_code == 3

    first = loads[0]()
    file.write_text("[services.web]\nworkers = 5\nthreads = 9\n")
    second = loads[0]()
    assert (first.config.services["web"].workers, set(first.config.services)) == (2, {"web", "redis"})
    assert (second.config.services["web"].workers, second.config.services["web"].threads) == (5, 3)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[sockets.web]\nbind = ":9000"\n', [":9000"]),
        ('[sockets.web]\nbind = [":9000", ":9001"]\n', [":9000", ":9001"]),
        ("", ["127.0.0.1:8000"]),
        ('[sockets.other]\nbind = ":9000"\n', ["127.0.0.1:8000"]),
    ],
)
def test_the_default_address_gives_way_to_the_file(
    ran: list[tuple[Resolved, bool]], here: Path, text: str, expected: list[str]
) -> None:
    (here / "x.toml").write_text(text)

    assert told(invoke("serve", "shop:app", "-c", "x.toml")) == (0, "", "")
    assert ran[0][0].config.sockets["web"].addresses == expected


def test_the_default_address_gives_way_to_the_environment(
    ran: list[tuple[Resolved, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAPEZE_SOCKETS__WEB__BIND", ":7000")

    assert told(invoke("serve", "shop:app")) == (0, "", "")
    assert ran[0][0].config.sockets["web"].addresses == [":7000"]


def test_overlay_holds_only_what_was_given() -> None:
    overlay, origins = build_overlay((), None, None, {"app": "shop:app", "workers": None, "factory": None}, {})

    assert overlay == {"services": {"web": {"app": "shop:app"}}, "sockets": {"web": {"bind": "127.0.0.1:8000"}}}
    assert origins == {"services.web.app": "argument APP", "sockets.web.bind": "default"}


@pytest.mark.parametrize(
    ("text", "value"),
    [("8", 8), ("2.5", 2.5), ("true", True), ("gthread", "gthread"), ('"8"', "8"), ("[1, 2]", [1, 2]), ("", ""),
     ("a=b", "a=b"), ("8\nx = 1", "8\nx = 1"), ("1979-05-27", "1979-05-27")],
)  # fmt: skip
def test_options_are_toml_or_text(text: str, value: Any) -> None:
    found = parse_options((f"key={text}",))

    assert found == {"key": value}
    assert type(found["key"]) is type(value)


# -- up ---------------------------------------------------------------------------------------------------------------


def test_up(ran: list[tuple[Resolved, bool]], here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "trapeze.toml").write_text('name = "here"\n[services.a]\ncommand = "true"\n')
    (here / "other.toml").write_text('name = "other"\n[services.a]\ncommand = "true"\n')

    assert told(invoke("up")) == (0, "", "")
    assert told(invoke("up", "-c", "other.toml", "--keep-going")) == (0, "", "")
    monkeypatch.setenv("TRAPEZE_CONFIG", "other.toml")
    assert told(invoke("up", "--name", "mine")) == (0, "", "")
    assert [(resolved.config.name, keep) for resolved, keep in ran] == [
        ("here", False),
        ("other", True),
        ("mine", False),
    ]


def test_up_without_a_file() -> None:
    assert told(invoke("up")) == (
        2,
        "",
        (
            "error: trapeze.toml: there is no such file in the current directory, name one with -c FILE, or serve an"
            " app without one: trapeze serve module:app\n"
        ),
    )
    assert told(invoke("up", "-c", "x.toml")) == (2, "", "error: x.toml: there is no such file\n")


@pytest.mark.parametrize(
    ("error", "code", "err"),
    [
        (
            ConfigError([Problem("services.web.worker", "unknown key", 'did you mean "workers"?', "trapeze.toml"),
                         Problem("services.x", "no")]),
            2,
            'error: trapeze.toml: services.web.worker: unknown key, did you mean "workers"?\nerror: services.x: no\n',
        ),
        (BindError("cannot listen on :80", hint="be root"), 2, "error: cannot listen on :80\nhint: be root\n"),
        (
            StartFailed("web did not start", output="Traceback\n  Boom"),
            1,
            "Traceback\n  Boom\nerror: web did not start\n",
        ),
    ],
)  # fmt: skip
def test_errors(monkeypatch: pytest.MonkeyPatch, error: Exception, code: int, err: str) -> None:
    def run(*_: object, **__: object) -> int:
        raise error

    monkeypatch.setattr(app, "run", run)

    assert told(invoke("serve", "shop:app")) == (code, "", err)


def test_control_c_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: object, **__: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(app, "run", run)

    assert told(invoke("serve", "shop:app")) == (130, "", "")


# -- usage ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "err"),
    [
        (["statsu"], 'error: no such command "statsu", did you mean "status"?\nhint: `trapeze --help` shows'),
        (["xyzzy"], 'error: no such command "xyzzy"\nhint: `trapeze --help` shows'),
        (["serve"], "error: missing argument 'APP'\nhint: `trapeze serve --help` shows"),
        (["serve", "a:b", "--workers", "x"], "error: invalid value for '-w' / '--workers': 'x' is not a valid integer"),
        (["serve", "a:b", "--option", "x"], "error: invalid value for --option: 'x' is not KEY=VALUE"),
        (["start"], "error: missing argument 'SERVICE'\nhint: `trapeze start --help` shows"),
        (["restart", "--process", "3"], "error: --process goes with the one service it is of\nhint: "),
        (["scale", "web", "many"], "error: invalid value for N: 'many' is not a number; write 4, +1 or -1\nhint: "),
        (["scale", "web", "+-1"], "error: invalid value for N: "),
    ],
)
def test_usage_errors(args: list[str], err: str) -> None:
    code, out, found = told(invoke(*args))

    assert (code, out) == (2, "")
    assert found.startswith(err)
    assert found.count("\n") <= 2


def test_every_verb_has_help() -> None:
    listed = invoke("--help")

    assert listed.exit_code == 0
    for verb in cli.list_commands(None):  # type: ignore[arg-type]
        found = invoke(verb, "--help")
        assert found.exit_code == 0, verb
        assert f"Usage: trapeze {verb}" in found.stdout
        assert f"\n  {verb} " in listed.stdout
        assert "..." not in next(line for line in listed.stdout.splitlines() if line.startswith(f"  {verb} "))


def test_version() -> None:
    assert told(invoke("--version")) == (0, "trapeze 0.1.0\n", "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str) -> None:
    code, out, err = told(invoke("completion", shell))

    assert (code, err) == (0, "")
    assert "_TRAPEZE_COMPLETE" in out


def test_completion_of_verbs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_TRAPEZE_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "trapeze sta")
    monkeypatch.setenv("COMP_CWORD", "1")

    assert invoke().stdout.split() == ["plain,status", "plain,start"]


# -- settings ---------------------------------------------------------------------------------------------------------

FILE = """\
[sockets.web]
bind = ":8000"
[services.jobs]
command = "true"
[services.jobs.env]
TOKEN = "hidden"
"""


def test_check(here: Path) -> None:
    (here / "trapeze.toml").write_text(FILE.replace("[services.jobs]", '[services.jobs]\nsocket = "web"'))

    assert told(invoke("check")) == (0, "ok: 1 command, 1 address\n", "")
    assert told(invoke("check", "--json")) == (0, '{"ok":true,"problems":[],"warnings":[],"notes":[]}\n', "")


def test_check_says_everything(here: Path) -> None:
    (here / "trapeze.toml").write_text('[services.web]\napp = "a:b"\nworker = 3\nthreads = "x"\n')
    code, out, err = told(invoke("check"))

    assert (code, err) == (2, "")
    assert 'trapeze.toml: services.web.worker: unknown key, did you mean "workers"?' in out.splitlines()
    assert any("services.web.threads" in line for line in out.splitlines())


def test_check_warns_of_a_socket_that_an_app_and_a_command_have(here: Path) -> None:
    """The one needs it non-blocking, the other may wait in accept(). Allowed, and so exit 0."""
    (here / "shop.py").write_text("def app(environ, start_response): ...\n")
    web = '[sockets.web]\nbind = ":8000"\n[services.web]\napp = "shop:app"\n'
    (here / "trapeze.toml").write_text(web + '[services.more]\ncommand = "true {fd:web}"\nsocket = "web"\n')

    code, out, err = told(invoke("check"))

    assert (code, out) == (0, "ok: 1 web app, 1 command, 1 address\n")
    assert err.startswith('warning: trapeze.toml: services.more.socket: the app "web" accepts there too')
    (warning,) = json.loads(invoke("check", "--json").stdout)["warnings"]
    assert warning["path"] == "services.more.socket"


def test_check_warns_of_a_socket_that_nobody_accepts_on(here: Path) -> None:
    (here / "trapeze.toml").write_text(FILE)
    code, out, err = told(invoke("check"))

    hint = 'socket = "web" in the section of a service'
    assert (code, out) == (0, "ok: 1 command, 1 address\n")
    assert err == f"warning: trapeze.toml: sockets.web: no service accepts there: who connects waits for ever, {hint}\n"


def test_check_asks_for_the_backend_of_a_section_with_mistakes(here: Path) -> None:
    """But not where a mistake decides which interpreter is asked."""
    text = '[sockets.web]\nbind = ":8000"\n[services.web]\napp = "shop:app"\nbackend = "gunicron"\n'
    (here / "trapeze.toml").write_text(text + "threadz = 1\n")
    known = invoke("check").stdout.splitlines()
    (here / "trapeze.toml").write_text(text + 'threadz = 1\nvenv = "/nowhere"\n')
    unknown = invoke("check").stdout

    assert any(line.startswith("trapeze.toml: services.web.backend: unknown backend 'gunicron'") for line in known)
    assert any(line.startswith("trapeze.toml: services.web.threadz: ") for line in known)
    assert "services.web.backend" not in unknown


@pytest.mark.parametrize("words", [["--name", "", "status"], ["status", "--name", ""], ["serve", "x:y", "--name", ""]])
def test_no_name_is_no_instance(words: list[str]) -> None:
    code, out, err = told(invoke(*words))

    assert (code, out) == (2, "")
    assert err.startswith("error: invalid value for '--name': it is empty\n")


def test_a_backend_that_nobody_knows() -> None:
    code, out, err = told(invoke("backends", "nope"))

    assert (code, out) == (2, "")
    assert err.startswith("error: unknown backend 'nope', known in ")


@pytest.mark.parametrize("verb", [("status",), ("reload",), ("events",), ("upgrade",), ("shutdown",), ("stop", "x")])
def test_errors_as_json(verb: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, here: Path) -> None:
    """Data like all other answers, with the exit code that the words have."""
    monkeypatch.setenv("TRAPEZE_RUNTIME_DIR", str(here))

    code, out, err = told(invoke(*verb, "--json", "--name", "nobody"))

    assert (code, err) == (3, "")
    assert json.loads(out)["code"] == "not_running"
    assert told(invoke(*verb, "--name", "nobody"))[:2] == (3, "")


def test_config_errors_as_json(here: Path) -> None:
    (here / "trapeze.toml").write_text('[services.web]\ncomand = "x"\n')

    code, out, err = told(invoke("config", "--json"))

    assert (code, err) == (2, "")
    assert json.loads(out)["problems"][0]["path"] == "services.web.comand"


def test_check_asks_the_app_s_interpreter(here: Path) -> None:
    (here / "trapeze.toml").write_text('[sockets.web]\nbind = ":8000"\n[services.web]\napp = "nowhere:app"\n')
    code, out, err = told(invoke("check"))

    assert (code, err) == (2, "")
    assert out.startswith("trapeze.toml: services.web.app: ")
    assert "nowhere" in out
    assert out.count("\n") == 1


def test_check_imports_only_when_told(here: Path) -> None:
    (here / "trapeze.toml").write_text('[sockets.web]\nbind = ":8000"\n[services.web]\napp = "broken:app"\n')
    (here / "broken.py").write_text('raise RuntimeError("boom")\n')

    assert told(invoke("check")) == (0, "ok: 1 web app, 1 address\n", "")
    code, out, err = told(invoke("check", "--import"))
    assert (code, err) == (2, "")
    assert "RuntimeError: boom" in out


def test_config_shows_origins(here: Path) -> None:
    (here / "trapeze.toml").write_text(FILE)
    code, out, err = told(invoke("config", "--name", "mine"))

    assert (code, err) == (0, "")
    assert [" ".join(line.split()) for line in out.splitlines()] == [
        'name = "mine" # flag --name',
        'sockets.web.bind = ":8000" # trapeze.toml',
        'services.jobs.command = ["true"] # trapeze.toml',
        'services.jobs.env.TOKEN = "***" # trapeze.toml',
    ]


def test_config_with_defaults(here: Path) -> None:
    (here / "trapeze.toml").write_text(FILE)
    code, out, _ = told(invoke("config", "--defaults"))

    assert code == 0
    assert "services.jobs.stop_timeout = 30.0" in out
    assert "hidden" not in out + invoke("config", "--json").stdout


def test_backends_of_this_environment() -> None:
    code, out, err = told(invoke("backends"))

    assert code == 0
    assert err.startswith("in ")
    assert [line.split()[0] for line in out.splitlines()][:1] == ["NAME"]
    assert {"gunicorn", "uvicorn", "chaussette"} <= {line.split()[0] for line in out.splitlines()}


def test_backends_of_no_environment(here: Path) -> None:
    code, out, err = told(invoke("backends", "--venv", "nowhere"))

    assert (code, out) == (1, "")
    assert err.startswith(f"error: {here}/nowhere is no virtual environment")
