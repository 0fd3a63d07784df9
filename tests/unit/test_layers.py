"""Who may import whom: the table of the design, held by `ast` (nothing is imported here).

Every module of `trapeze` stands in GROUPS; one that does not fails the test, so that its place is thought about.
Imports under TYPE_CHECKING count as any other. Imports inside functions are only for what DEFERRED names, with reason.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
TRAPEZE = ROOT / "trapeze"
BACKENDS = ROOT / "backends" / "trapeze_backends"

# -- the table: from the ground up. A module may import its own group and those that MAY_IMPORT names. ----------------

GROUPS: dict[str, set[str]] = {
    "errors": {"trapeze", "errors", "nginx"},
    "spec": {"addresses", "buckets", "limits", "readiness", "slots", "spec", "spec_nginx"},
    "config": {
        "access",
        "checks",
        "checks_nginx",
        "checks_process",
        "checks_service",
        "checks_worker",
        "config",
        "convert",
        "envfile",
        "nginx.site",
        "nginx.text",
        "nginx.whole",
        "overlay",
        "preflight",
        "problems",
        "programs",
        "reach",
        "resolve",
        "schema",
    },
    "decisions": {"lifecycle", "metrics", "notify", "planner", "restart", "status", "stoporder"},
    "mechanisms": {
        "boot",
        "console",
        "doorman",
        "doorstep",
        "examine_backend",
        "figures",
        "following",
        "forks",
        "holders",
        "keeping",
        "launch",
        "lend",
        "listenqueue",
        "listensocket",
        "nginx.tool",
        "niceness",
        "output",
        "prelude",
        "probe",
        "runtime",
        "scoreboard",
        "sink",
        "socketfile",
        "sockets",
        "tcpsockets",
        "unixsockets",
    },
    "machine": {
        "chronicle",
        "ear",
        "events",
        "gate",
        "generation",
        "host",
        "keeper",
        "lastout",
        "ledger",
        "machine",
        "nginx.generated",
        "orders",
        "probing",
        "process",
        "report",
        "service",
        "trial",
        "verify",
        "vigil",
        "zygotes",
    },
    "supervisor": {"back", "carry", "fronting", "supervisor", "swap", "sweep", "watching"},
    "doors": {"calls", "control", "door", "routes", "settle", "signals", "upward"},
    "app": {"app", "early", "foreground", "outset", "resume", "saving", "takeover", "upgrade"},
    "people": {
        "__main__",
        "client",
        "conformance",
        "conformance.*",
        "doctor",
        "doctor.*",
        "nginx.uptake",
        "render",
        "successor",
        "watcher",
        "cli.*",
    },
}

MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "spec": {"errors"},
    "config": {"errors", "spec"},
    "decisions": {"errors", "spec"},
    "mechanisms": {"errors", "spec"},
    "machine": {"errors", "spec", "config", "decisions", "mechanisms"},
    "supervisor": {"errors", "spec", "config", "decisions", "mechanisms", "machine"},
    "doors": {"errors", "spec", "config", "decisions", "mechanisms", "machine", "supervisor"},
    "app": {"errors", "spec", "config", "decisions", "mechanisms", "machine", "supervisor", "doors"},
    "people": {"errors", "spec", "config", "decisions", "mechanisms", "machine", "supervisor", "doors", "app"},
}

DEFERRED: dict[tuple[str, str], str] = {
    ("__main__", "cli"): "with the garbage collector off, which has to be said before",
    ("__main__", "successor"): "as cli",
    ("app", "foreground"): "asyncio and the machine are imported while the checks of the worker side run",
    ("foreground", "carry"): "of upgrades only: a start need not wait for it",
    ("foreground", "resume"): "of upgrades only: a start need not wait for it",
    ("foreground", "figures"): "as control: psutil costs 15 ms",
    ("foreground", "nginx.generated"): "as figures: most have no nginx of ours",
    ("foreground", "upgrade"): "as control, which it needs",
    ("fronting", "nginx.generated"): "the first who needs the file, or foreground when the workers are on their way",
    ("foreground", "control"): "imported when the workers are on their way: it is not needed for the first answer",
}
"""(module, what it imports inside a function): why it may. Commands (cli, render, client) always may: each imports
what it needs when it runs."""

BACK: dict[tuple[str, str], str] = {
    ("ear", "service"): "a part of it in a file of its own",
    ("gate", "service"): "a part of it in a file of its own",
    ("host", "service"): "the protocol names what it is given",
    ("lastout", "service"): "a part of it in a file of its own",
    ("trial", "service"): "as zygotes",
    ("vigil", "service"): "as zygotes",
    ("zygotes", "service"): "a part of it in a file of its own",
}
"""Imports under TYPE_CHECKING that close a circle within a group: why they may."""

PURE = {"__future__", "collections", "dataclasses", "enum", "functools", "math", "msgspec", "re", "signal", "typing"}
"""All that a decision may import from outside: no clock, no IO, no chance, no loop, no log."""

SERVERS = {
    "aiohttp",
    "bjoern",
    "chaussette",
    "cheroot",
    "daphne",
    "eventlet",
    "fastpysgi",
    "gevent",
    "geventwebsocket",
    "granian",
    "gunicorn",
    "hypercorn",
    "starlette",
    "tornado",
    "trapeze_backends",
    "twisted",
    "uvicorn",
    "uvloop",
    "waitress",
    "werkzeug",
}
"""What `trapeze` never imports: it runs in the worker."""

PEOPLE_ONLY = {"click": {"people"}, "rich": {"people"}, "watchfiles": {"doors", "app", "people"}}
"""Libraries that cost the supervisor memory: group(s) that may import them."""

ADAPTED: dict[str, set[str]] = {
    "bjoern": {"bjoern"},
    "chaussette": {"chaussette", "eventlet"},
    "cheroot": {"cheroot"},
    "fastpysgi": {"_fastpysgi", "fastpysgi"},
    "gevent": {"gevent", "geventwebsocket"},
    "granian": {"granian", "uvloop"},
    "aiohttp": {"aiohttp", "yarl"},
    "daphne": {"daphne", "twisted"},
    "gunicorn": {"gunicorn", "gevent", "eventlet"},
    "hypercorn": {"h11", "hypercorn"},
    "loops": {"uvloop"},
    "tornado": {"tornado"},
    "green": {"gevent", "eventlet"},
    "uvicorn": {"uvicorn", "uvloop", "httptools"},
    "waitress": {"waitress"},
    "uwsgi": {"pyuwsgi", "uwsgi"},
    "warm": {"django"},
    "werkzeug": {"werkzeug"},
}
"""What a module of the worker side may import besides the standard library: the server it adapts. A key also stands
for modules that begin with it (`gunicorn_asgi`, `gunicorn.workers`)."""

HEAVY = {"argparse", "asyncio", "concurrent", "http", "logging", "multiprocessing", "ssl", "subprocess", "urllib"}
"""What the way from exec to the app may not import: each costs milliseconds in every worker."""


# -- reading the sources ----------------------------------------------------------------------------------------------


class Import(NamedTuple):
    """One import statement."""

    module: str
    """Who imports, without the package: `cli.serve`; the package itself is its own name."""
    target: str
    """Full dotted name of what is imported."""
    deferred: bool
    """Inside a function."""
    line: int

    def __str__(self) -> str:
        return f"{self.module}:{self.line} imports {self.target}"


def modules(package: Path) -> dict[str, Path]:
    """Dotted name without the package -> file."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name or package.name] = path
    return found


def imports(package: Path, name: str, path: Path) -> Iterator[Import]:
    """All imports of one module."""
    own = [package.name] if name == package.name else [package.name, *name.split(".")]
    base = own if path.name == "__init__.py" else own[:-1]
    known = modules(package)
    for node, deferred in walk(ast.parse(path.read_text()), deferred=False):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(name, alias.name, deferred, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            start = base[: len(base) - node.level + 1] if node.level else []
            source = ".".join([*start, *([node.module] if node.module else [])])
            for alias in node.names:
                full = f"{source}.{alias.name}"
                is_module = full.removeprefix(package.name + ".") in known
                yield Import(name, full if is_module else source, deferred, node.lineno)


def walk(node: ast.AST, *, deferred: bool) -> Iterator[tuple[ast.AST, bool]]:
    """Every node, and whether it lies inside a function."""
    yield node, deferred
    inside = deferred or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    for child in ast.iter_child_nodes(node):
        yield from walk(child, deferred=inside)


def all_imports(package: Path) -> list[Import]:
    return [found for name, path in modules(package).items() for found in imports(package, name, path)]


def group_of(name: str) -> str | None:
    """The group of a module; `cli.*` stands for the package and all in it."""
    for group, names in GROUPS.items():
        if name in names or f"{name.split('.')[0]}.*" in names:
            return group
    return None


def own(target: str) -> str | None:
    """The module of trapeze that is imported, or None for somebody else's."""
    if target.partition(".")[0] != "trapeze":
        return None
    return target.removeprefix("trapeze.")


def top(target: str) -> str:
    return target.partition(".")[0]


SUPERVISOR_SIDE = all_imports(TRAPEZE)
WORKER_SIDE = all_imports(BACKENDS)


# -- the tests --------------------------------------------------------------------------------------------------------


def test_every_module_has_its_place() -> None:
    assert [name for name in modules(TRAPEZE) if group_of(name) is None] == [], "put it into GROUPS"


def test_the_table_names_only_what_there_is() -> None:
    named = {name for names in GROUPS.values() for name in names if not name.endswith(".*")}

    assert sorted(named - set(modules(TRAPEZE))) == [], "take it out of GROUPS"


def test_arrows_point_down() -> None:
    wrong = []
    for found in SUPERVISOR_SIDE:
        target = own(found.target)
        if target is None:
            continue
        source_group, target_group = group_of(found.module), group_of(target)
        if source_group and target_group and target_group not in MAY_IMPORT[source_group] | {source_group}:
            wrong.append(f"{found} ({source_group} -> {target_group})")

    assert wrong == []


def test_no_circles() -> None:
    """Within a group too; what is imported inside a function counts as well."""
    edges: dict[str, set[str]] = {}
    for found in SUPERVISOR_SIDE:
        target = own(found.target)
        if target and target not in (found.module, "trapeze") and (found.module, target) not in BACK:
            edges.setdefault(found.module, set()).add(target)

    assert circle(edges) is None


def circle(edges: dict[str, set[str]]) -> list[str] | None:
    """One circle in a graph, if there is any."""
    done: set[str] = set()

    def visit(node: str, path: list[str]) -> list[str] | None:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return None
        for target in sorted(edges.get(node, ())):
            if found := visit(target, [*path, node]):
                return found
        done.add(node)
        return None

    for node in sorted(edges):
        if found := visit(node, []):
            return found
    return None


def test_a_circle_would_be_found() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}}) is None


def test_own_package_is_imported_at_the_top() -> None:
    wrong = [
        str(found)
        for found in SUPERVISOR_SIDE
        if found.deferred
        and own(found.target) is not None
        and group_of(found.module) != "people"
        and (found.module, own(found.target)) not in DEFERRED
    ]

    assert wrong == []


def test_decisions_are_pure() -> None:
    wrong = [
        str(found)
        for found in SUPERVISOR_SIDE
        if group_of(found.module) == "decisions" and own(found.target) is None and top(found.target) not in PURE
    ]

    assert wrong == []


def test_trapeze_imports_no_server() -> None:
    assert [str(found) for found in SUPERVISOR_SIDE if top(found.target) in SERVERS] == []


@pytest.mark.parametrize("library", sorted(PEOPLE_ONLY))
def test_supervisor_stays_small(library: str) -> None:
    wrong = [
        str(found)
        for found in SUPERVISOR_SIDE
        if top(found.target) == library and group_of(found.module) not in PEOPLE_ONLY[library]
    ]

    assert wrong == []


def test_worker_side_imports_nothing_of_trapeze() -> None:
    assert [str(found) for found in WORKER_SIDE if top(found.target) in {"trapeze", "trapeze_bench"}] == []


def test_worker_side_imports_the_standard_library_and_its_server() -> None:
    wrong = [str(found) for found in WORKER_SIDE if not may_use(found.module, top(found.target))]

    assert wrong == []


def may_use(module: str, library: str) -> bool:
    """May this module of the worker side import this?"""
    if library in sys.stdlib_module_names or library == "trapeze_backends":
        return True
    return any(library in libraries for name, libraries in ADAPTED.items() if module.startswith(name))


def test_the_way_to_the_app_is_lean() -> None:
    """What `child` imports before the app, and what that imports in turn."""
    if not (BACKENDS / "child.py").exists():
        pytest.skip("no child.py")
    reached, waiting = {"child", "trapeze_backends"}, ["child", "trapeze_backends"]
    while waiting:
        module = waiting.pop()
        for found in WORKER_SIDE:
            target = found.target.removeprefix("trapeze_backends.")
            ours = top(found.target) == "trapeze_backends"
            if ours and found.module == module and not found.deferred and target not in reached:
                reached.add(target)
                waiting.append(target)
    wrong = [
        str(found)
        for found in WORKER_SIDE
        if found.module in reached and not found.deferred and top(found.target) in HEAVY
    ]

    assert wrong == []
