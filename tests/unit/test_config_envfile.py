"""Environment files, the environment of a service, signals and limits by name."""

from __future__ import annotations

import os
import pwd
import signal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trapeze.envfile import OURS, read_env_file, service_environment
from trapeze.errors import ConfigError
from trapeze.limits import limit_names, parse_rlimit, parse_signal, rlimit_pairs, signal_name, stop_signum
from trapeze.spec import ServiceSpec

VARIABLES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,9}", fullmatch=True)
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"))


def test_env_file() -> None:
    text = r"""
# a comment
PLAIN=value
export EXPORTED=yes
  SPACED  =  a b  # said after it
HASH=a#b
EMPTY=
NOTHING= # only a comment
SINGLE='a "b" \n $HOME # no'   # yes
DOUBLE="a 'b' \n\t\"\\ \$HOME \x"
LINES="-----BEGIN-----
two
-----END-----"
PLAIN=again
EQUALS=a=b="c"
LAST=here"""

    assert read_env_file(text) == {
        "PLAIN": "again",
        "EXPORTED": "yes",
        "SPACED": "a b",
        "HASH": "a#b",
        "EMPTY": "",
        "NOTHING": "",
        "SINGLE": r'a "b" \n $HOME # no',
        "DOUBLE": "a 'b' \n\t\"\\ $HOME \\x",
        "LINES": "-----BEGIN-----\ntwo\n-----END-----",
        "EQUALS": 'a=b="c"',
        "LAST": "here",
    }


def test_env_file_of_other_systems() -> None:
    assert read_env_file("\ufeffA=1\r\nB='2'\r\n") == {"A": "1", "B": "2"}


def test_env_file_says_every_wrong_line_and_shows_no_secret() -> None:
    with pytest.raises(ConfigError) as caught:
        read_env_file(
            "GOOD='1\n2'\nhunter2\n2BAD=hunter2\nA B=hunter2\nQUOTE='hunter2\nTAIL=\"x\" hunter2\nN=\0\n=x\n", ".env"
        )

    assert [str(problem) for problem in caught.value.problems] == [
        ".env: line 3: is no NAME=value, comments begin with #",
        ".env: line 4: not a valid variable name before the =, letters, digits, _ and ., no digit first",
        ".env: line 5: not a valid variable name before the =, letters, digits, _ and ., no digit first",
        ".env: line 6: the value begins with ' but does not end with it, after the closing quote comes only a comment",
        '.env: line 7: the value begins with " but does not end with it, after the closing quote comes only a comment',
        ".env: line 8: the value contains a NUL character",
        ".env: line 9: not a valid variable name before the =, letters, digits, _ and ., no digit first",
    ]


@given(st.dictionaries(VARIABLES, TEXTS))
def test_what_is_quoted_comes_back(values: dict[str, str]) -> None:
    def quoted(value: str) -> str:
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'

    assert read_env_file("".join(f"{name}={quoted(value)}\n" for name, value in values.items())) == values


@given(st.text())
def test_any_text_is_read_or_refused_in_words(text: str) -> None:
    try:
        found = read_env_file(text)
    except ConfigError as error:
        assert all(problem.path.startswith("line ") for problem in error.problems)
    else:
        assert all(name and "=" not in name for name in found)


# -- the environment of a service -------------------------------------------------------------------------------------


def test_service_environment(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("A=one\nB=one\nC=one\n")
    (tmp_path / "two").write_text("B=two\nC=two\nLISTEN_FDS=3\n")
    for name in ("one", "two"):
        (tmp_path / name).chmod(0o644)
    spec = ServiceSpec(command="x", env_file=["one", "two"], env={"C": "spec", "YES": True, "PORT": 80, "RATIO": 0.5})

    found = service_environment(spec, str(tmp_path), {"PATH": "/bin", "A": "outer", "LISTEN_ADDR": "kept"})

    assert found == {
        "PATH": "/bin",
        "LISTEN_ADDR": "kept",
        "A": "one",
        "B": "two",
        "C": "spec",
        "YES": "true",
        "PORT": "80",
        "RATIO": "0.5",
    }


def test_what_is_meant_for_the_supervisor_is_not_passed_on() -> None:
    """Least of all what configures other services: it may hold their secrets."""
    environ = dict.fromkeys(
        [*OURS, "TRAPEZE_SERVICES__DB__ENV__PASSWORD", "TRAPEZE_CONTROL__MODE", "TRAPEZE_NAME"], "1"
    )

    assert service_environment(ServiceSpec(command="x"), "/", environ) == {"TRAPEZE_NAME": "1"}


def test_service_environment_with_a_venv() -> None:
    spec = ServiceSpec(app="a", venv="/srv/shop/.venv")

    found = service_environment(spec, "/", {"PATH": "/bin", "PYTHONHOME": "/x"})

    assert found == {"PATH": "/srv/shop/.venv/bin:/bin", "VIRTUAL_ENV": "/srv/shop/.venv"}
    assert service_environment(spec, "/", {})["PATH"] == f"/srv/shop/.venv/bin:{os.defpath}"


def test_service_environment_with_a_user() -> None:
    entry = pwd.getpwuid(0)
    outer = {"HOME": "/home/me", "USER": "me", "LOGNAME": "me"}

    by_name = service_environment(ServiceSpec(command="x", user=entry.pw_name), "/", outer)
    by_number = service_environment(ServiceSpec(command="x", user="0", env={"HOME": "/x"}), "/", outer)
    unknown = service_environment(ServiceSpec(command="x", user="3999999999"), "/", outer)

    assert by_name == {"HOME": entry.pw_dir, "USER": entry.pw_name, "LOGNAME": entry.pw_name}
    assert by_number == {**by_name, "HOME": "/x"}
    assert unknown == {"HOME": "/", "USER": "3999999999", "LOGNAME": "3999999999"}


def test_env_files_that_cannot_be_read_are_all_named(tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b"A=\xff")
    (tmp_path / "open").write_text("A=1")
    (tmp_path / "bytes").chmod(0o644)
    (tmp_path / "open").chmod(0o666)
    files = ["missing", "bytes", "open"]

    with pytest.raises(ConfigError) as caught:
        service_environment(ServiceSpec(command="x", env_file=files), str(tmp_path), {})

    said = [str(problem).removeprefix(f"{tmp_path}/") for problem in caught.value.problems]
    assert said[:2] == ["missing: cannot be read: no such file or directory", "bytes: is not UTF-8 text"]
    if os.geteuid() == 0:
        assert said[2] == "open: refused: root does not read a file that everybody can write, chmod o-w it"


# -- signals and limits -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("TERM", signal.SIGTERM),
        ("SIGTERM", signal.SIGTERM),
        ("sigterm", signal.SIGTERM),
        (" int ", signal.SIGINT),
        ("15", signal.SIGTERM),
        ("RTMIN+3", signal.SIGRTMIN + 3),
        ("SIGRTMAX", signal.SIGRTMAX),
    ],
)
def test_signal(text: str, number: int) -> None:
    assert parse_signal(text) == number
    assert stop_signum(ServiceSpec(command="x", stop_signal=text)) == number


@pytest.mark.parametrize("number", sorted(signal.valid_signals()))
def test_each_signal_has_a_name(number: int) -> None:
    assert parse_signal(signal_name(number)) == number
    assert "RTMAX" not in signal_name(number), "which setpriv does not know"


@pytest.mark.parametrize("text", ["", "0", "-1", "99", "٣", "TREM", "SIG", "SIG_DFL", "RTMIN+99", "RTMIN+", "9" * 5000])
def test_no_signal(text: str) -> None:
    with pytest.raises(ValueError, match="no such signal"):
        parse_signal(text)


@pytest.mark.parametrize("text", ["STOP", "CONT", "CHLD", "TSTP"])
def test_signal_that_stops_nothing(text: str) -> None:
    with pytest.raises(ValueError, match="does not end"):
        stop_signum(ServiceSpec(command="x", stop_signal=text))


@pytest.mark.parametrize(
    ("value", "pair"),
    [
        (1024, (1024, 1024)),
        (0, (0, 0)),
        ("1024", (1024, 1024)),
        ("unlimited", (-1, -1)),
        ("1024:65536", (1024, 65536)),
        (" 1024 : unlimited ", (1024, -1)),
        ("infinity:infinity", (-1, -1)),
        (2**63 - 1, (2**63 - 1, 2**63 - 1)),
    ],
)
def test_rlimit(value: int | str, pair: tuple[int, int]) -> None:
    assert parse_rlimit(value) == pair
    assert rlimit_pairs(ServiceSpec(command="x", rlimits={"nofile": value})) == {"nofile": pair}


@pytest.mark.parametrize(
    "value", [-1, 2**63, "", "-1", "x", "1:", ":1", "1:2:3", "2:1", "unlimited:5", "٣", "9" * 5000, "1.5"]
)
def test_no_rlimit(value: int | str) -> None:
    with pytest.raises(ValueError, match=r"limit|expected"):
        parse_rlimit(value)


def test_limit_names() -> None:
    assert {"nofile", "core", "nproc", "as"} <= set(limit_names())
