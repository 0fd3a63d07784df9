"""`nginx`: what the nginx in front has to be told; written, tested and reloaded if that is asked for."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import click

from trapeze import config as configuration
from trapeze.cli.common import say
from trapeze.cli.run import build_overlay, config_path, parse_options, serve
from trapeze.client import Client, find
from trapeze.config import Resolved
from trapeze.errors import ConfigError, NotRunning, Problem, TrapezeError
from trapeze.nginx import tool
from trapeze.nginx.site import Site, plan
from trapeze.nginx.text import MARK, Facts, fragment
from trapeze.nginx.uptake import taken_up, watched
from trapeze.nginx.whole import Frame, wrapped

__all__ = ["nginx"]

_OF_SERVE = ("bind", "per_worker", "workers", "backend", "app_dir", "factory", "interface", "venv", "python",
             "trusted_proxies", "threads", "options")  # fmt: skip

_EXAMPLES = """\b
Examples:
  trapeze nginx                                            of trapeze.toml, to stdout
  trapeze nginx shop:app --bind unix:/run/shop/web.sock --server-name shop.example.org
  trapeze nginx --write /etc/nginx/conf.d/shop.conf --test --reload
"""


class Wish(NamedTuple):
    """What is to be done with the text."""

    write: str | None
    force: bool
    test: bool
    reload: bool
    program: str | None
    main: str | None


@click.command(epilog=_EXAMPLES)
@click.argument("app", required=False)
@click.option("-c", "--config", "path", metavar="FILE", help="Configuration file; default: trapeze.toml, without APP.")
@click.option("--service", "services", multiple=True, metavar="NAME", help="Only this web service; may be repeated.")
@click.option("--server-name", "names", multiple=True, metavar="NAME", help="Name of the site; may be repeated.")
@click.option("--listen", "listens", multiple=True, metavar="ADDR", help="Where nginx listens: 80, 127.0.0.1:8080.")
@click.option("--tls", nargs=2, metavar="CERT KEY", help="Serve HTTPS with this certificate and key (PEM files).")
@click.option("--write", metavar="PATH", help="Write it to this file instead of stdout.")
@click.option("--force", is_flag=True, help="With --write: also over a file that was not generated.")
@click.option("--test", is_flag=True, help="Have nginx test it; nothing is written if it is not right.")
@click.option("--reload", is_flag=True, help="With --write: test nginx's whole configuration with it and reload nginx.")
@click.option("--nginx", "program", metavar="PROGRAM", help="The nginx that is asked; default: on the PATH or in sbin.")
@click.option(
    "--main", metavar="FILE", help="With --reload: nginx's own configuration; default: what it was built for."
)
@click.pass_context
def nginx(
    ctx: click.Context, /, app: str | None, path: str | None, services: tuple[str, ...], names: tuple[str, ...],
    listens: tuple[str, ...], tls: tuple[str, str] | None, **more: Any,
) -> int:  # fmt: skip
    """Print the configuration for the nginx in front.

    Complete and commented: upstreams on the sockets of the file's web services (or of APP with the flags of serve),
    headers, timeouts that agree with the services' own, WebSockets, TLS. The section [nginx] of the file says the rest.
    """
    wish = Wish(**{field: more.pop(field) for field in Wish._fields})
    if wish.reload and wish.write is None:
        raise click.UsageError("--reload goes with --write", ctx=ctx)
    given = {
        "server_name": (list(names) or None, "flag --server-name"),
        "listen": (list(listens) or None, "flag --listen"),
        "certificate": (tls[0] if tls else None, "flag --tls"),
        "certificate_key": (tls[1] if tls else None, "flag --tls"),
    }
    resolved = _resolved(app, path, more, given)
    program = tool.find(wish.program)
    if program is None and (wish.test or wish.reload or wish.program):
        raise TrapezeError(f"{wish.program or 'nginx'} is not installed", hint="name it with --nginx PROGRAM")
    site = _site(resolved, services)
    source = os.path.basename(resolved.path) if resolved.path else "the flags of serve"
    text = fragment(site, Facts(version=tool.version(program), ipv6=tool.has_ipv6()), source)
    return _put(text, wish, program)


nginx.params += [param for param in serve.params if param.name in _OF_SERVE]


def _resolved(app: str | None, path: str | None, flags: dict[str, Any], given: dict[str, tuple[Any, str]]) -> Resolved:
    """The configuration as `serve APP` or `up` would have it, with our own flags on top."""
    overlay: dict[str, Any] = {}
    origins: dict[str, str] = {}
    bind = flags.pop("bind")
    flags["options"] = parse_options(flags["options"]) or None
    flags["trusted_proxies"] = list(flags["trusted_proxies"]) or None
    if app is not None:
        name = click.get_current_context().find_root().obj
        overlay, origins = build_overlay(bind, name, path, {"app": app, **flags}, os.environ)
    elif bind or any(value is not None for value in flags.values()):
        raise click.UsageError("flags of serve go with APP", ctx=click.get_current_context())
    else:
        path = config_path(path or os.environ.get("TRAPEZE_CONFIG"))
    ours = {field: value for field, (value, _) in given.items() if value is not None}
    overlay["nginx"] = ours
    origins |= {f"nginx.{field}": given[field][1] for field in ours}
    return configuration.load(path, overlay=overlay, overlay_origins=origins, environ=os.environ)


def _site(resolved: Resolved, services: tuple[str, ...]) -> Site:
    """What nginx is to be told. An address that the file leaves open is asked of the instance that runs.

    Raises:
        ConfigError: it cannot be said.
    """
    config = resolved.config
    for name in services:
        if name not in config.services or not config.services[name].is_web:
            known = ", ".join(each for each, spec in config.services.items() if spec.is_web) or "none"
            raise ConfigError([Problem("", f'there is no web service "{name}"', f"there are {known}", "--service")])
    site = plan(config, services)
    if isinstance(site, list) and any(problem.path.endswith(".socket") for problem in site):
        site = plan(config, services, _bound(config.name))
    if isinstance(site, list):
        raise ConfigError([each._replace(origin=resolved.origins.get(each.path, "")) for each in site])
    return site


def _bound(name: str) -> dict[str, list[str]]:
    """Where the sockets of the running instance are, by name."""
    found: dict[str, list[str]] = {}
    try:
        for socket in Client(find(name)).status().sockets:
            found.setdefault(socket.name, []).append(socket.address)
    except NotRunning:
        return {}
    return found


def _put(text: str, wish: Wish, program: str | None) -> int:
    """Print or write the text; before that, what was asked for is tested."""
    if wish.write is not None:
        _refuse_others(wish.write, force=wish.force)
    if program is not None and (wish.test or wish.reload):
        _test(program, text, wish.write or "the configuration")
    if wish.write is None:
        click.echo(text, nl=False)
        return 0
    before = _present(wish.write)
    _write(wish.write, text)
    if program is not None and wish.reload:
        _reload(program, wish.write, before, wish.main)
    done = "written" if before != text else "as it was"
    tested = ", tested" if wish.test or wish.reload else ""
    say(f"{wish.write}: {done}{tested}{', nginx reloaded' if wish.reload else ''}")
    return 0


def _present(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise TrapezeError(f"cannot read {path}: {os.strerror(error.errno or 0).lower()}") from None


def _refuse_others(path: str, *, force: bool) -> None:
    """What somebody has written by hand is not ours to replace."""
    found = _present(path)
    if found and not found.startswith(MARK) and not force:
        raise TrapezeError(f"{path} was not generated by trapeze", hint="name another file, or replace it with --force")


def _write(path: str, text: str) -> None:
    try:
        tool.replace_file(path, text)
    except OSError as error:
        raise TrapezeError(f"cannot write {path}: {os.strerror(error.errno or 0).lower()}") from None


def _test(program: str, text: str, name: str) -> None:
    user = tool.worker_user() if os.geteuid() == 0 else None
    verdict = tool.test(program, text, wrapped("{file}", Frame(directory="{directory}", user=user)), name)
    for line in verdict.said.splitlines():
        say(line)
    if not verdict.good:
        raise TrapezeError(f"nginx refuses {name}; nothing was written or reloaded")
    say("nginx says that it is right")


def _reload(program: str, path: str, before: str | None, main: str | None) -> None:
    """Test the whole of nginx's configuration, then have it read. What does not pass is taken back."""
    chosen = ["-c", os.path.abspath(main)] if main is not None else []
    verdict = tool.run(program, *chosen, "-T")
    if not verdict.good:
        _take_back(path, before)
        for line in tool.with_lines(verdict.said).splitlines():
            say(line)
        raise TrapezeError(f"nginx refuses its configuration with {path} in it: taken back, nothing was reloaded")
    if f"# configuration file {os.path.realpath(path)}:" not in verdict.printed and (
        f"# configuration file {os.path.abspath(path)}:" not in verdict.printed
    ):
        _take_back(path, before)
        hint = "choose a place that its http block includes, such as /etc/nginx/conf.d/NAME.conf"
        raise TrapezeError(f"nginx does not read {path}: taken back, nothing was reloaded", hint=hint)
    before_it = watched(verdict.printed)
    verdict = tool.run(program, *chosen, "-s", "reload")
    if not verdict.good:
        for line in verdict.said.splitlines():
            say(line)
        raise TrapezeError(f"{path} is written, and nginx could not be told: does it run?", hint="start nginx")
    if (why := taken_up(before_it)) is not None:
        _take_back(path, before)
        raise TrapezeError(f"nginx goes on with its old configuration: {why}", hint=f"{path} is as it was before")


def _take_back(path: str, before: str | None) -> None:
    if before is None:
        os.unlink(path)
    else:
        _write(path, before)
