"""Write docs/reference/ from the program itself: the structs of `spec.py`, the commands, the state table, the bench.

    python scripts/reference.py             write the pages
    python scripts/reference.py --check     change nothing; exit 1 if a page is not what would be written

Nothing in docs/reference/ is written by hand: tests/unit/test_docs.py runs the check.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click
import msgspec
from msgspec import Meta, Struct

ROOT = Path(__file__).resolve().parents[1]
if not __package__:
    sys.path[:0] = [str(ROOT), str(ROOT / "backends"), str(ROOT / "bench")]

from trapeze_backends import registry  # noqa: E402
from trapeze_backends.features import FIELDS, PROMISES, describe  # noqa: E402
from trapeze_bench import documents  # noqa: E402

from trapeze.cli import cli  # noqa: E402  (a script: the checkout comes first on the path)
from trapeze.lifecycle import TABLE, Effect, Event, State  # noqa: E402
from trapeze.problems import members  # noqa: E402
from trapeze.routes import ROUTES  # noqa: E402
from trapeze.spec import Config, ControlSpec, HealthSpec, RestartSpec, ServiceSpec, SocketSpec  # noqa: E402
from trapeze.spec_nginx import NginxSpec  # noqa: E402
from trapeze.status import Status  # noqa: E402

__all__ = ["PAGES", "main", "pages"]

NOTE = "<!-- Written by scripts/reference.py; do not edit. -->"

SECTIONS: Sequence[tuple[str, type[Struct]]] = (
    ("Top of the file", Config),
    ("[control]", ControlSpec),
    ("[sockets.NAME]", SocketSpec),
    ("[services.NAME]", ServiceSpec),
    ("[services.NAME.restart]", RestartSpec),
    ("[services.NAME.health]", HealthSpec),
    ("[nginx]", NginxSpec),
)

_PLAIN = {str: "text", int: "whole number", float: "number", bool: "true or false", type(None): ""}


def row(*cells: str) -> str:
    """Return one line of a table; a bar in a cell would end it."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return a table, and an empty line after it."""
    return [row(*head), "|" + "---|" * len(head), *(row(*cells) for cells in rows), ""]


# -- config.md --------------------------------------------------------------------------------------------------------


def type_words(kind: Any) -> str:
    """Return a field's type in words: what may be written in the file."""
    plain, metas = members(kind)
    words = [word for part in plain if (word := _type_word(part))]
    return " or ".join(dict.fromkeys(words)) + _limits(metas)


def _type_word(part: Any) -> str:
    origin = get_origin(part)
    if origin is Literal:
        return " or ".join(f'`"{word}"`' for word in get_args(part))
    if origin is list:
        return f"list of {type_words(get_args(part)[0])}"
    if origin is dict:
        return _table_words(get_args(part)[1])
    if _is_struct(part):
        return "table"
    return _PLAIN.get(part, "anything")


def _table_words(inner: Any) -> str:
    if _is_struct(inner):
        return "tables by name"
    return f"table of {'any values' if inner is Any else type_words(inner)}"


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Struct)


def _limits(metas: Iterable[Meta]) -> str:
    """Return the least and the greatest value, where the type has them."""
    found = {name: value for meta in metas for name in ("ge", "le") if (value := getattr(meta, name)) is not None}
    if len(found) == 2:
        return f", {found['ge']} to {found['le']}"
    if "ge" in found:
        return f", {found['ge']} or more"
    return f", {found['le']} or less" if found else ""


def default_words(field: msgspec.structs.FieldInfo) -> str:
    """Return a field's default as TOML would have it; empty when there is none to speak of."""
    value = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
    if value is msgspec.NODEFAULT:
        return "required"
    if value is None or isinstance(value, Struct):
        return ""
    return f"`{msgspec.json.encode(value).decode()}`"


def description(kind: Any) -> str:
    """Return the text that `spec.py` gives the field; it stands on the annotation or on a member of a union."""
    if hasattr(kind, "__metadata__"):
        found = [meta.description for meta in kind.__metadata__ if isinstance(meta, Meta) and meta.description]
        return found[0] if found else description(get_args(kind)[0])
    return next((text for part in get_args(kind) if (text := description(part))), "")


def config_page() -> str:
    """Return the page of the configuration file."""
    lines = [
        "# trapeze.toml: every field",
        "",
        NOTE,
        "",
        "The same fields can be set in the environment, as `TRAPEZE_SERVICES__WEB__WORKERS=4`; see",
        "[configuration](../guide/configuration.md). Times are in seconds. An unknown key is an error.",
        "`trapeze schema` prints all this as JSON Schema, for editors.",
        "",
    ]
    for title, struct in SECTIONS:
        lines += [f"## {title}", "", " ".join((struct.__doc__ or "").split()), ""]
        fields = msgspec.structs.fields(struct)
        lines += table(
            ("field", "type", "default", "what it is"),
            (
                (f"`{field.name}`", type_words(field.type), default_words(field), description(field.type))
                for field in fields
            ),
        )
    return "\n".join(lines)


# -- cli.md -----------------------------------------------------------------------------------------------------------


def prose(text: str) -> str:
    """Return a docstring of a command as Markdown: what click shows as it is becomes a block."""
    parts = []
    for part in text.strip().split("\n\n"):
        if part.lstrip().startswith("\b"):
            body = [line.strip() for line in part.strip().splitlines()[1:]]
            parts.append("```text\n" + "\n".join(body) + "\n```")
        else:
            parts.append(" ".join(part.split()))
    return "\n\n".join(parts)


def option_words(option: click.Option) -> tuple[str, str]:
    """Return how an option is written, and what it does."""
    names = ", ".join(f"`{name}`" for name in option.opts)
    if not option.is_flag:
        names += f" {option.metavar or option.type.name.upper().removesuffix(' RANGE')}"
    text = option.help or ""
    if option.show_default and option.default is not None:
        number = isinstance(option.default, int | float)
        text += f" Default: {option.default:g}." if number else f" Default: {option.default}."
    if option.multiple and "repeated" not in text:
        text += " May be repeated."
    if option.show_envvar and option.envvar:
        text += f" Environment: `{option.envvar}`."
    return names, text


def cli_page() -> str:
    """Return the page of the command line."""
    lines = ["# trapeze: every command", "", NOTE, "", prose(cli.help or ""), ""]
    lines += _options(cli)
    lines += [cli.epilog or "", "", "stdout is data, stderr is talk.", ""]
    context = click.Context(cli, info_name="trapeze")
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        usage = command.get_usage(click.Context(command, info_name=name, parent=context, terminal_width=1000))
        lines += [f"## trapeze {name}", "", prose(command.help or ""), ""]
        lines += ["```text", usage.removeprefix("Usage: "), "```", ""]
        lines += _options(command)
        if command.epilog:
            lines += [prose(command.epilog), ""]
    return "\n".join(lines)


def _options(command: click.Command) -> list[str]:
    options = [param for param in command.params if isinstance(param, click.Option)]
    return table(("option", "what it does"), (option_words(option) for option in options)) if options else []


# -- lifecycle.md -----------------------------------------------------------------------------------------------------


def docs_of(kind: type[Any]) -> Iterator[tuple[str, str]]:
    """Yield the members of an enum with the text below each in the source."""
    module = sys.modules[kind.__module__]
    assert module.__file__ is not None
    source = Path(module.__file__).read_text()
    body = source.partition(f"class {kind.__name__}(")[2].partition("\n\n\n")[0]
    for name, text in re.findall(r'^    (\w+) = "[^"]*"\n(?:    """(.*?)""")?', body, re.MULTILINE | re.DOTALL):
        yield name, " ".join(text.split())


def diagram() -> list[str]:
    """Return the table as a Mermaid state diagram; what leaves a state as it is, is left out."""
    lines = ["```mermaid", "stateDiagram-v2", "    [*] --> STARTING: spawned"]
    arrows: dict[tuple[State, State], list[str]] = {}
    for (state, event), step in TABLE.items():
        if step is not None and step.state is not state:
            arrows.setdefault((state, step.state), []).append(event.name)
    lines += [f"    {start.name} --> {end.name}: {', '.join(names)}" for (start, end), names in arrows.items()]
    return [*lines, f"    {State.EXITED.name} --> [*]", "```", ""]


def cell(state: State, event: Event) -> str:
    """Return one entry of the table: the next state and what is done on the way."""
    step = TABLE[state, event]
    if step is None:
        return "never"
    parts = [] if step.state is state else [f"**{step.state.name}**"]
    if step.effect is not Effect.NONE:
        parts.append(step.effect.value)
    return ", ".join(parts) or "-"


def lifecycle_page() -> str:
    """Return the page of the states of a process and of a service."""
    lines = [
        "# The life of a process",
        "",
        NOTE,
        "",
        "One object for each process, from spawn to exit; nothing is revived. The table is the whole of it: for each",
        "state and event the next state (in bold, where it is another one) and what is done on the way. `-`: nothing",
        "happens. `never`: it would be a bug in trapeze.",
        "",
        *diagram(),
    ]
    lines += table(
        ("state", *(event.name for event in Event)),
        ((f"**{state.name}**", *(cell(state, event) for event in Event)) for state in State),
    )
    for title, kind in (("States", State), ("Events", Event), ("What is done", Effect)):
        words = {member.name: str(member.value) for member in kind}
        lines += [f"## {title}", ""]
        lines += table(("name", "meaning"), ((f"`{words[name]}`", text) for name, text in docs_of(kind) if text))
    lines += ["## Status of a service", ""]
    lines += ["Never stored: derived from its processes and from what is wanted, each time somebody asks.", ""]
    lines += [f"`{'`, `'.join(status.value for status in Status)}`. See [operating](../guide/operating.md).", ""]
    return "\n".join(lines)


# -- control.md -------------------------------------------------------------------------------------------------------


def control_page() -> str:
    """Return the page of the control door."""
    lines = ["# The control socket: every route", "", NOTE, ""]
    lines += ["HTTP/1.1 and JSON on a Unix socket; see [operating](../guide/operating.md#the-control-socket).", ""]
    rows = []
    for route in ROUTES:
        query = ", ".join(f"`{name}`" for name in route.query.__struct_fields__)
        rows.append((f"`{route.method}`", f"`{route.path}`", query, route.doc))
    return "\n".join(lines + table(("method", "path", "query", "what it does"), rows))


# -- backends.md ------------------------------------------------------------------------------------------------------

_MARKS = {"native": "native", "trapeze": "yes", "no": "-"}


def backends_page() -> str:
    """Return the page of what each backend does of the worker contract."""
    described = {name: describe(registry.get(name)) for name in sorted(registry.BUILT_IN)}
    lines = ["# Backends: what each of them does", "", NOTE, ""]
    lines += [
        "`trapeze backends` prints the same for those that are installed, with their versions. `native`: the server",
        "does it; `yes`: trapeze does it, the same for all; `-`: it cannot be had, and to ask for it is an error.",
        "",
    ]
    spoken = {"wsgi": "WSGI", "asgi": "ASGI", "websocket": "WebSocket", "http2": "HTTP/2"}
    rows = []
    for name, each in described.items():
        serves = [spoken.get(word, word) for word in (*sorted(each["interfaces"], reverse=True), *each["speaks"])]
        rows.append((f"`{name}`", ", ".join(serves), *(_MARKS[how] for how in each["fields"].values())))
    lines += table(("backend", "serves", *(f"`{field}`" for field in FIELDS)), rows)
    lines += ["## What cannot be had, and why", ""]
    reasons = [(name, field, why) for name, each in described.items() for field, why in each["why"].items()]
    lines += table(("backend", "field", "why"), ((f"`{name}`", f"`{field}`", why) for name, field, why in reasons))
    lines += ["## Promises", "", "Kept by every worker, unless the next table says otherwise.", ""]
    lines += table(("promise", "what it says"), ((f"`{name}`", words) for name, words in PROMISES.items()))
    lines += ["## Promises that a server cannot keep", ""]
    lacks = [(name, promise, why) for name, each in described.items() for promise, why in each["lacks"].items()]
    lines += table(("backend", "promise", "why"), ((f"`{name}`", f"`{what}`", why) for name, what, why in lacks))
    return "\n".join(lines)


def bench_page() -> str:
    """Return the page of the document that `trapeze bench --json` writes."""
    lines = ["# The report of the bench", "", NOTE, "", *(documents.__doc__ or "").strip().splitlines()[2:], ""]
    for struct in documents.structs():
        lines += [f"## {struct.__name__}", "", " ".join((struct.__doc__ or "").split()), ""]
        docs, fields = documents.field_docs(struct), msgspec.structs.fields(struct)
        rows = ((f"`{it.name}`", documents.words(it.type), default_words(it), docs.get(it.name, "")) for it in fields)
        lines += table(("field", "type", "default", "what it is"), rows)
    return "\n".join(lines)


# -- all --------------------------------------------------------------------------------------------------------------

PAGES = {
    "config.md": config_page,
    "cli.md": cli_page,
    "lifecycle.md": lifecycle_page,
    "control.md": control_page,
    "backends.md": backends_page,
    "bench.md": bench_page,
}


def pages() -> dict[Path, str]:
    """Return every page with its path."""
    return {ROOT / "docs" / "reference" / name: make().rstrip() + "\n" for name, make in PAGES.items()}


def main(arguments: Sequence[str]) -> int:
    """Write the pages, or with --check say which are stale. Return the exit code."""
    check = "--check" in arguments
    stale = {path: text for path, text in pages().items() if not path.exists() or path.read_text() != text}
    for path, text in stale.items():
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        print(f"{path.relative_to(ROOT)}: {'stale: run python scripts/reference.py' if check else 'written'}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
