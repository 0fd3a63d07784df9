"""Checks of the section [nginx]: all that can be said of it without looking at the machine."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from trapeze.addresses import split_host_port
from trapeze.errors import Problem
from trapeze.limits import parse_size
from trapeze.problems import Problems, did_you_mean, got, join
from trapeze.spec import Config, ServiceSpec

__all__ = ["GENERATED", "check_nginx", "fronted", "is_generated", "routes_of", "servant", "words_of"]

GENERATED = "{generated:nginx}"
"""In the words of a command: the path of a whole nginx.conf, which is written for it."""

_NAME = re.compile(r"(?:\*\.|\.)?[\w-]+(?:\.[\w-]+)*(?:\.\*)?|_")
_PATH = re.compile(r"/[^\s;{}\"'\\$#]*")
_ROUTE = re.compile(r"(?P<host>[^/]*)(?P<path>/.*)")
_FILE = re.compile(r"[^\0\n\"\\$;{}]+")
_UNKNOWN = re.compile(r"\{generated:[^{}]*\}")


def words_of(spec: ServiceSpec) -> list[str]:
    """The command in words, as far as anybody looks for a placeholder in them."""
    command = spec.command
    return [command] if isinstance(command, str) else list(command or ())


def is_generated(spec: ServiceSpec) -> bool:
    """Is it a command that runs an nginx of ours?"""
    return any(GENERATED in word for word in words_of(spec))


def servant(config: Config) -> str | None:
    """Return the name of the service that runs our nginx, if there is one."""
    return next((name for name, spec in config.services.items() if is_generated(spec)), None)


def fronted(config: Config) -> list[str]:
    """Services that an nginx in front passes requests to, unless `routes` says otherwise: the apps; without any, the
    commands that accept on a socket."""
    if config.nginx.routes:
        return list(dict.fromkeys(config.nginx.routes.values()))
    apps = [name for name, spec in config.services.items() if spec.app is not None]
    return apps or [name for name, spec in config.services.items() if spec.is_web and not is_generated(spec)]


def routes_of(config: Config, services: Collection[str] = ()) -> dict[str, str] | Problem:
    """Return which path is whose, or why that cannot be said. `services`: only these; none: all that are fronted."""
    if config.nginx.routes:
        chosen = {route: name for route, name in config.nginx.routes.items() if not services or name in services}
        return chosen or Problem("nginx.routes", f"leads nowhere to {', '.join(services)}")
    found: dict[str, str] = {}
    for name in services or fronted(config):
        prefix = config.services[name].root_path.strip("/")
        path = f"/{prefix}/" if prefix else "/"
        if path in found:
            hint = f'say which path is whose: routes = {{ "/" = "{found[path]}", "/{name}/" = "{name}" }} in [nginx]'
            return Problem("nginx.routes", f"{found[path]} and {name} are both at {path}", hint)
        found[path] = name
    return found or Problem("services", "there is no web service to pass requests to", "add one with app and a socket")


def check_nginx(config: Config, problems: Problems) -> None:
    """Add everything that is wrong with the section, and with commands that use what is made of it."""
    _words(config, problems)
    _listens(config, problems)
    _routes(config, problems)
    _files(config, problems)
    _peers(config, problems)
    for name, spec in config.services.items():
        _command(name, spec, config, problems)


def _words(config: Config, problems: Problems) -> None:
    spec = config.nginx
    for name in spec.names:
        if not _NAME.fullmatch(name):
            problems.add("nginx.server_name", f"{got(name)} is not a host name", 'as in "shop.example.org"')
    for path in spec.sse:
        if not _PATH.fullmatch(path):
            problems.add("nginx.sse", f"expected a path, got {got(path)}", 'as in "/events"')
    if spec.max_body == 0:
        return
    try:
        parse_size(spec.max_body)
    except ValueError as error:
        problems.add("nginx.max_body", str(error), "0: no limit" if spec.max_body in ("0", -1) else "")


def _listens(config: Config, problems: Problems) -> None:
    for text in config.nginx.listens:
        if text.isascii() and text.isdigit():
            text = f":{text}"
        try:
            port = split_host_port(text)[1]
        except ValueError as error:
            problems.add("nginx.listen", str(error), 'as in "80", "127.0.0.1:8080" or "[::]:80"')
        else:
            if port == 0:
                problems.add("nginx.listen", "port 0 is none that anybody could find", 'as in "80"')
    listens = config.nginx.listens
    if len(set(listens)) < len(listens):
        problems.add("nginx.listen", "names an address twice")


def _routes(config: Config, problems: Problems) -> None:
    for route, name in config.nginx.routes.items():
        path = join("nginx.routes", route)
        found = _ROUTE.fullmatch(route)
        if (
            found is None
            or not _PATH.fullmatch(found["path"])
            or (found["host"] and not _NAME.fullmatch(found["host"]))
        ):
            problems.add(path, f"expected a path, got {got(route)}", 'as in "/ws/" or "api.example.org/"')
        if name not in config.services:
            known = [each for each, spec in config.services.items() if spec.is_web]
            hint = did_you_mean(name, known) or f"web services are {', '.join(known) or 'none'}"
            problems.add(path, f'there is no service "{name}"', hint)
        elif not config.services[name].is_web or is_generated(config.services[name]):
            problems.add(path, f'"{name}" does not accept on a socket of the file', "name a web service")


def _files(config: Config, problems: Problems) -> None:
    spec = config.nginx
    taken: dict[str, str] = {}
    for field, table in (("static", spec.static), ("media", spec.media)):
        for path, directory in table.items():
            here = join(f"nginx.{field}", path)
            if not _PATH.fullmatch(path):
                problems.add(here, f"expected a path, got {got(path)}", 'as in "/static/"')
            elif not path.endswith("/") or path == "/":
                # nginx would put what follows the prefix behind the directory: /static../settings.py would be served.
                problems.add(here, f"{got(path)} has to be a directory's path", 'begin and end it with "/": "/static/"')
            elif path in taken:
                problems.add(here, f"is in {taken[path]} too")
            taken[path] = field
            _file(here, directory, problems)
    if (spec.certificate is None) != (spec.certificate_key is None):
        missing = "certificate_key" if spec.certificate_key is None else "certificate"
        problems.add(join("nginx", missing), "missing", "TLS needs both, the certificate and its key", at="nginx")
    for field in ("certificate", "certificate_key"):
        if (value := getattr(spec, field)) is not None:
            _file(join("nginx", field), value, problems)
    for value in spec.includes:
        _file("nginx.include", value, problems)


def _file(path: str, value: str, problems: Problems) -> None:
    if not _FILE.fullmatch(value):
        hint = "" if not value else 'nginx cannot be told of names with any of " \\ $ ; { } in them'
        problems.add(path, "is empty" if not value else f"{got(value)} cannot be written in nginx's language", hint)


def _peers(config: Config, problems: Problems) -> None:
    peers = config.nginx.peers
    named: Mapping[str, list[str]] = {"": peers} if isinstance(peers, list) else peers
    for service, addresses in named.items():
        path = join("nginx.peers", service) if service else "nginx.peers"
        if service and service not in config.services:
            problems.add(path, f'there is no service "{service}"', did_you_mean(service, config.services))
        for text in addresses:
            try:
                host, port, _v6 = split_host_port(text)
            except ValueError as error:
                problems.add(path, str(error), 'as in "10.0.0.2:8000"')
            else:
                if not host or not port:
                    problems.add(path, f"{got(text)} names no other machine", 'as in "10.0.0.2:8000"')
    several = fronted(config)
    if isinstance(peers, list) and peers and len(several) > 1:
        reason = f"does not say which of {', '.join(several)} runs there"
        problems.add("nginx.peers", reason, f'write a table: peers = {{ {several[0]} = ["{peers[0]}"] }}')


def _command(name: str, spec: ServiceSpec, config: Config, problems: Problems) -> None:
    """An nginx of ours stays in the foreground, and has something to stand in front of."""
    path = join(join("services", name), "command")
    words = words_of(spec)
    for word in words:
        for found in _UNKNOWN.findall(word):
            if found != GENERATED:
                problems.add(path, f"{found}: nothing of that name is generated", f"there is {GENERATED}")
    if not is_generated(spec):
        return
    if spec.shell:
        problems.add(path, f"{GENERATED} goes with a command that nginx is started by, not with a shell's")
    if "daemon off" not in " ".join(words):
        problems.add(path, "nginx would go into the background", "add -g 'daemon off;'")
    if spec.workers != 1:
        problems.add(join(join("services", name), "workers"), "one nginx is enough: it has workers of its own")
    others = [other for other, each in config.services.items() if other != name and is_generated(each)]
    if others:
        problems.add(path, f"{GENERATED}: {others[0]} runs it already")
    routes = routes_of(config) if not problems.spoiled("nginx.routes") else {}
    if isinstance(routes, Problem):
        problems.add(routes.path, routes.reason, routes.hint)
