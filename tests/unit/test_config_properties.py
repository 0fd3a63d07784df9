"""Properties of `config.load`: it either resolves or says what is wrong, and what it resolves is stable."""

from __future__ import annotations

import datetime
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from trapeze.config import diff, load, masked, start_order
from trapeze.errors import ConfigError
from trapeze.spec import Config, ControlSpec, RestartSpec, ServiceSpec, SocketSpec

FIELDS = sorted(
    {
        *(
            field
            for struct in (Config, ControlSpec, SocketSpec, ServiceSpec, RestartSpec)
            for field in struct.__struct_fields__
        )
    }
)
NAMES = st.sampled_from(["web", "redis", "jobs", "a-b", "a_b", "x y", "", "trapeze", "ü"])
KEYS = st.one_of(st.sampled_from(FIELDS), NAMES, st.text(max_size=5))
WORDS = st.sampled_from(
    [
        *(
            "",
            "web",
            "redis",
            "auto",
            "never",
            "shop:app",
            "shop:make()",
            "x {fd:web:1} {fd:}",
            "x 'y",
            "unix:a",
            ":80",
        ),
        *(
            "[::1]:80",
            "systemd:web",
            "fd://3",
            "0660",
            "notify",
            "tcp://127.0.0.1:80",
            "exec:x 'y",
            "TERM",
            "1:2",
            "\0",
        ),
        *("unlimited", "socket:web", "\udcff", "{", "[1", "99999999999999999999"),
    ]
)
SCALARS = st.one_of(
    WORDS,
    st.text(max_size=8),
    st.booleans(),
    st.integers(),
    st.sampled_from([2**70, -(2**70)]),
    st.floats(),
    st.dates(),
    st.times(),
    st.just(datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)),
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=8
)


def section(struct: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    """Mostly real keys with any values."""
    return st.one_of(st.dictionaries(st.sampled_from(struct.__struct_fields__), VALUES, max_size=6), VALUES)


LINES = st.sampled_from(
    [
        *(
            "[services.web]",
            "[services.a]",
            "[sockets.web]",
            "[control]",
            "[services",
            "[[services]]",
            "[services.web.env]",
        ),
        *(
            'app = "a:b"',
            'command = "x"',
            'bind = ":80"',
            "workers = 2",
            "workers = -1",
            "x = 1",
            "name = '",
            "= 3",
            "",
        ),
        *(
            "after = ['web']",
            "env.A = 2026-01-01",
            "\ufeff",
            "a = {",
            "\x00",
            "mode = 0600",
            "# \ud800",
            "options.b = nan",
        ),
    ]
)


TREES = st.dictionaries(KEYS, VALUES, max_size=4) | st.fixed_dictionaries(
    {},
    optional={
        "name": VALUES,
        "control": section(ControlSpec),
        "sockets": st.dictionaries(NAMES, section(SocketSpec), max_size=3) | VALUES,
        "services": st.dictionaries(NAMES, section(ServiceSpec), max_size=3) | VALUES,
        "other": VALUES,
    },
)

COMMANDS = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters="\0{}"), min_size=1), min_size=1, max_size=4
)
GOOD = st.fixed_dictionaries(
    {"command": COMMANDS},
    optional={
        "workers": st.integers(0, 10_000),
        "enabled": st.just(True),
        "stop_timeout": st.floats(0, 1e6),
        "env": st.dictionaries(st.from_regex("[A-Z]{1,5}_", fullmatch=True), st.integers() | st.booleans()),
        "umask": st.from_regex("[0-7]{3}", fullmatch=True),
        "nice": st.integers(-20, 19),
        "rlimits": st.dictionaries(st.sampled_from(["nofile", "core"]), st.integers(0, 2**40)),
        "cwd": st.from_regex("[a-z./]{1,10}", fullmatch=True),
    },
)


@given(TREES)
def test_any_tree_is_resolved_or_refused(tree: dict[str, Any]) -> None:
    try:
        found = load(None, overlay=tree, environ={})
    except ConfigError as error:
        assert error.problems
        assert all(problem.reason and "\n" not in str(problem).replace(problem.path, "") for problem in error.problems)
    else:
        assert list(start_order(found.config)) != []
        masked(found)


@given(
    st.dictionaries(
        st.from_regex(r"TRAPEZE_(SERVICES|SOCKETS|CONTROL)__[A-Za-z_.]{0,20}|TRAPEZE_NAME"), WORDS | st.text()
    )
)
def test_any_environment_is_resolved_or_refused(environ: dict[str, str]) -> None:
    try:
        load(None, overlay={"services": {"web": {"command": "x"}}}, environ=environ)
    except ConfigError as error:
        assert all(problem.reason for problem in error.problems)


@given(st.lists(LINES).map("\n".join) | st.text())
def test_any_file_is_resolved_or_refused(text: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "trapeze.toml")
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        path.chmod(0o644)
        try:
            load(str(path), environ={})
        except ConfigError as error:
            assert all(str(problem).startswith(f"{path}: ") for problem in error.problems)


@given(st.dictionaries(st.sampled_from(["a", "b", "c"]), GOOD, min_size=1))
def test_what_was_resolved_resolves_to_itself(services: dict[str, Any]) -> None:
    first = load(None, overlay={"services": services}, environ={})

    again = load(None, overlay=msgspec.to_builtins(first.config), environ={})

    assert again.config == first.config
    assert not any(diff(first.config, again.config))


@given(st.dictionaries(st.sampled_from("abcdefgh"), st.lists(st.sampled_from("abcdefgh"), max_size=3), min_size=1))
def test_order_and_circles(after: dict[str, list[str]]) -> None:
    known = {name: [other for other in others if other in after] for name, others in after.items()}
    tree = {"services": {name: {"command": "x", "after": others} for name, others in known.items()}}

    order = start_order(msgspec.convert(tree, Config))

    assert sorted(order) == sorted(after)
    late = [
        (name, other) for name, others in known.items() for other in others if order.index(other) >= order.index(name)
    ]
    try:
        load(None, overlay=tree, environ={})
    except ConfigError:
        assert late
    else:
        assert not late


@given(st.permutations(["default", "file", "environment", "flag"]).map(lambda layers: set(layers[:2])))
def test_the_highest_layer_wins(layers: set[str]) -> None:
    values = {"file": 2, "environment": 3, "flag": 4}
    flags: Mapping[str, Any] = {"workers": 4} if "flag" in layers else {}
    environ = {"TRAPEZE_SERVICES__A__WORKERS": "3"} if "environment" in layers else {}
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "trapeze.toml")
        path.write_text("[services.a]\ncommand = 'x'\n" + ("workers = 2\n" if "file" in layers else ""))
        path.chmod(0o644)

        found = load(str(path), overlay={"services": {"a": flags}}, environ=environ)

    assert found.config.services["a"].workers == max((values[layer] for layer in layers if layer in values), default=1)
