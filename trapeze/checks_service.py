"""Checks of one service: app or command, and which options go with which."""

from __future__ import annotations

import re

from trapeze.checks_process import Service, check_process
from trapeze.checks_worker import check_worker
from trapeze.problems import Problems, did_you_mean, got, join
from trapeze.resolve import split
from trapeze.spec import Config, ServiceSpec

__all__ = ["FD", "check_service"]

FD = re.compile(r"\{fd:([^{}:]*)(?::([^{}]*))?\}")
"""`{fd:web}` and `{fd:web:1}` in the words of a command."""

_APP_ONLY = (
    "interface",
    "factory",
    "backend",
    "app_dir",
    "venv",
    "python",
    "threads",
    "keepalive",
    "access_log",
    "trusted_proxies",
    "root_path",
    "options",
    "watch",
    "health",
    "preload",
    "warm",
    "after_fork",
    "spare",
    "keep_generations",
    "max_requests",
    "max_requests_jitter",
    "max_age",
    "max_rss",
    "recycle_jitter",
    "heartbeat_timeout",
    "request_timeout",
    "drain_grace",
)
_ROLLING = ("max_surge", "max_unavailable")
_DOTTED = r"[^\W\d]\w*(?:\.[^\W\d]\w*)*"
_APP = re.compile(rf"{_DOTTED}(?::{_DOTTED}(?:\(\))?)?")


def check_service(name: str, spec: ServiceSpec, config: Config, problems: Problems) -> None:
    """Add everything that is wrong with one service."""
    service = Service(name, spec, config, problems)
    _kind(service)
    if spec.app is not None:
        _app(service)
        check_worker(service)
    if spec.command is not None:
        _command(service)
    _sockets(service)
    _placeholders(service)
    _rolling(service)
    check_process(service)


def _kind(service: Service) -> None:
    """Exactly one of app and command; and only the options of that kind."""
    spec, problems = service.spec, service.problems
    if spec.app is not None and spec.command is not None:
        app, command = (problems.origin(join(service.path, key)) for key in ("app", "command"))
        who = "" if app == command else f" (app from {app}, command from {command})"
        service.wrong("", f"has both app and command{who}", "a service is one or the other")
        return
    if spec.app is None and spec.command is None:
        if not problems.spoiled(service.path):
            service.wrong("", "has neither app nor command", 'write app = "module:object" or command = "program ..."')
        return
    if spec.app is not None:
        if spec.shell:
            service.wrong("shell", "goes with command only")
        return
    for field in _APP_ONLY:
        if service.given(field):
            hint = 'a command names its own program: ".venv/bin/celery ..."' if field == "venv" else ""
            service.wrong(field, "goes with app only", hint)


def _app(service: Service) -> None:
    app = service.spec.app or ""
    if not _APP.fullmatch(app):
        service.wrong("app", f"expected module:object, got {got(app)}", _app_hint(app))
    elif app.endswith("()") and service.spec.factory:
        service.wrong("factory", 'app says it already by its "()"', "leave out one of them")


def _app_hint(app: str) -> str:
    module, _, rest = app.partition(":")
    if module.endswith(".py") or "/" in module:
        dotted = module.removesuffix(".py").strip("./").replace("/", ".")
        return f'a module is written with dots: "{dotted}{":" + rest if rest else ""}"'
    if "(" in rest:
        return "a factory is called without arguments; settings go into env"
    return 'as in "shop.wsgi:application"'


def _command(service: Service) -> None:
    spec = service.spec
    command = spec.command
    if isinstance(command, str):
        try:
            words = [command] if spec.shell else split(command)
        except ValueError as error:
            service.wrong("command", str(error))
            return
        if not words or not words[0].strip():
            service.wrong("command", "is empty")
        return
    if spec.shell:
        service.wrong("shell", "goes with a command in one text, not with a list")
    if not command or not command[0]:
        service.wrong("command", "is empty" if not command else "the program's name is empty")


def _sockets(service: Service) -> None:
    """Named sockets exist; an app has one."""
    spec, known = service.spec, service.config.sockets
    if not service.fine("socket") or (service.problems.spoiled("sockets") and not known):
        return
    there = f"sockets are {', '.join(known)}" if known else f"add [sockets.{service.name}] with bind"
    for name in spec.sockets:
        if name not in known and not service.problems.spoiled(join("sockets", name)):
            service.wrong("socket", f'there is no socket "{name}"', did_you_mean(name, known) or there)
    if len(set(spec.sockets)) < len(spec.sockets):
        service.wrong("socket", "names a socket twice")
    if spec.app is None or service.problems.spoiled(join("sockets", service.name)):
        return
    if spec.socket is None and service.name not in known:
        reason = f'an app needs a socket, and there is none named "{service.name}"'
        service.wrong("socket", reason, f"name one: {there}" if known else there)
    if spec.socket == []:
        service.wrong("socket", "an app needs a socket", there)


def _placeholders(service: Service) -> None:
    """`{fd:NAME}` names a socket that the service lists."""
    if service.spec.app is not None:
        return
    listed = service.spec.sockets
    for word in service.words:
        for match in FD.finditer(word):
            name, number = match[1], match[2]
            if name not in listed:
                hint = f'add socket = "{name}"' if name in service.config.sockets else ""
                service.wrong("command", f'{match[0]}: the service does not list a socket "{name}"', hint)
            elif number is not None and not _has(service, name, number):
                service.wrong("command", f'{match[0]}: socket "{name}" has no such address', "they count from 0")


def _has(service: Service, name: str, number: str) -> bool:
    spec = service.config.sockets.get(name)
    if not (number.isascii() and number.isdecimal()):
        return False
    # one systemd name may stand for any number of descriptors
    return spec is None or int(number) < len(spec.addresses) or any(a.startswith("systemd:") for a in spec.addresses)


def _rolling(service: Service) -> None:
    spec = service.spec
    if spec.app is None and not spec.sockets:
        for field in _ROLLING:
            if service.given(field):
                service.wrong(field, "goes with services on a socket only; others stop first and start then")
    elif spec.max_surge == 0 and spec.max_unavailable == 0:
        service.wrong("max_surge", "max_surge and max_unavailable are both 0", "rolling could never begin")
    if spec.is_task and spec.workers > 1:
        service.wrong("workers", 'a task (restart "never") runs once, in one process')
