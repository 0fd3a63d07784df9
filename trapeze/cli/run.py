"""`serve` and `up`: make the overlay from the flags, and run the supervisor to its end."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from trapeze.cli.common import config_option, instance, name_option
from trapeze.errors import ConfigError, Problem

if TYPE_CHECKING:
    from trapeze.config import Resolved

__all__ = ["CommandLine", "serve", "understood", "up"]

_ONLY_READ = "trapeze.only_read"
"""In a context's `meta`: where to put what the command line says, instead of running it."""

DEFAULT_BIND = "127.0.0.1:8000"
DEFAULT_FILE = "trapeze.toml"
_FLAGS = {
    "app": "argument APP",
    "workers": "flag --workers",
    "backend": "flag --backend",
    "app_dir": "flag --app-dir",
    "factory": "flag --factory",
    "interface": "flag --interface",
    "venv": "flag --venv",
    "python": "flag --python",
    "trusted_proxies": "flag --trusted-proxy",
    "threads": "flag --threads",
    "access_log": "flag --access-log",
    "watch": "flag --reload",
    "options": "flag --option",
}
"""Field of the service to the origin it is shown with."""

_EXAMPLES = """\b
Examples:
  trapeze serve shop.wsgi --workers 4
  trapeze serve shop.main:app --bind unix:/run/shop.sock --bind :8000
  trapeze serve "shop:create_app()" --reload
  trapeze serve shop:app --backend gunicorn --option worker_class=gevent
"""


class CommandLine(NamedTuple):
    """What `serve` or `up` was told."""

    load: Callable[[], Resolved]
    keep_going: bool


@click.command(epilog=_EXAMPLES)
@click.argument("app")
@click.option("-w", "--workers", type=click.IntRange(0, 10_000), metavar="N", help="Worker processes; default 1.")
@click.option(
    "-b", "--bind", multiple=True, metavar="ADDR",
    help=f"HOST:PORT, :PORT, [::1]:PORT, unix:PATH, unix:@NAME, fd://N, systemd:NAME; "
    f"may be repeated; default {DEFAULT_BIND}.",
)  # fmt: skip
@click.option(
    "--per-worker", is_flag=True, default=None,
    help="Each worker at an address of its own: web.0.sock, web.1.sock; port, port + 1.",
)  # fmt: skip
@click.option("--backend", metavar="NAME", help="auto, gunicorn, uvicorn, chaussette...; default auto.")
@click.option("--app-dir", metavar="DIR", help="Import the app from here; default: the current directory.")
@click.option("--factory", is_flag=True, default=None, help="APP is a function that makes the app.")
@click.option(
    "--interface",
    type=click.Choice(["auto", "wsgi", "asgi", "aiohttp", "tornado"]),
    help="What APP speaks; default: look at it.",
)
@click.option("--venv", metavar="DIR", help="Virtual environment that runs the app.")
@click.option("--python", metavar="PATH", help="Interpreter that runs the app, without a virtual environment.")
@click.option(
    "--trusted-proxy", "trusted_proxies", multiple=True, metavar="PEER",
    help='Believe the X-Forwarded-* headers of this address, network, "unix" or "*"; may be repeated.',
)  # fmt: skip
@click.option("--threads", type=click.IntRange(1), metavar="N", help="Threads per worker.")
@click.option("--access-log", is_flag=True, default=None, help="Log each request.")
@click.option("--option", "options", multiple=True, metavar="KEY=VALUE", help="An option of the server itself.")
@click.option("--reload", "watch", is_flag=True, default=None, help="For development: new code when a file changes.")
@click.option("--name", metavar="NAME", type=instance, help="Name of this instance; default trapeze.")
@click.option("-c", "--config", "path", metavar="FILE", help="Run this file too; APP is its service web.")
@click.pass_context
def serve(ctx: click.Context, /, bind: tuple[str, ...], name: str | None, path: str | None, **flags: Any) -> int:
    """Serve one web app: WSGI, ASGI, or one of aiohttp or tornado.

    APP is "module:object"; the object defaults to "app", and may be a call: "module:make()". Which interface it speaks
    is seen by looking at it.
    """
    flags["options"] = parse_options(flags["options"]) or None
    flags["trusted_proxies"] = list(flags["trusted_proxies"]) or None
    if flags["python"] and "/" in flags["python"]:  # relative to where it was typed, not to the file
        flags["python"] = os.path.abspath(flags["python"])
    overlay, origins = build_overlay(bind, name or ctx.find_root().obj, path, flags, os.environ)
    return _run(path, overlay, origins)


@click.command()
@config_option
@click.option("--keep-going", is_flag=True, help="Go on when a service fails at its first start.")
@name_option
def up(path: str | None, keep_going: bool, name: str | None) -> int:
    """Run what trapeze.toml says."""
    overlay = {} if name is None else {"name": name}
    origins = {} if name is None else {"name": "flag --name"}
    return _run(config_path(path), overlay, origins, keep_going=keep_going)


def build_overlay(
    bind: tuple[str, ...], name: str | None, path: str | None, flags: Mapping[str, Any], environ: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Turn the flags of `serve` into a tree like the file's, and the origin of each value in it."""
    web = {field: value for field, value in flags.items() if value is not None}
    per_worker = web.pop("per_worker", False)
    for field in ("app_dir", "venv"):  # relative to where it was typed, not to the file
        if field in web:
            web[field] = os.path.abspath(web[field])
    overlay: dict[str, Any] = {"services": {"web": web}}
    origins = {f"services.web.{field}": _FLAGS[field] for field in web}
    if name is not None:
        overlay["name"] = name
        origins["name"] = "flag --name"
    if bind:
        overlay["sockets"] = {"web": {"bind": list(bind)}}
        web["socket"] = "web"
        origins["sockets.web.bind"] = origins["services.web.socket"] = "flag --bind"
    elif not _has_address(path, environ):
        overlay["sockets"] = {"web": {"bind": DEFAULT_BIND}}
        origins["sockets.web.bind"] = "default"
    if per_worker:
        overlay.setdefault("sockets", {}).setdefault("web", {})["listen"] = "per-worker"
        origins["sockets.web.listen"] = "flag --per-worker"
    return overlay, origins


def parse_options(pairs: tuple[str, ...]) -> dict[str, object]:
    """Read KEY=VALUE pairs; true, 8 and 2.5 mean what they mean in TOML, the rest is text."""
    found: dict[str, object] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise click.BadParameter(f"{pair!r} is not KEY=VALUE", param_hint="--option")
        found[key] = _toml_value(text)
    return found


def config_path(path: str | None) -> str:
    """Return the file to run: the one that was named, or trapeze.toml here.

    Raises:
        ConfigError: it does not exist.
    """
    chosen = path or DEFAULT_FILE
    if os.path.exists(chosen):
        return chosen
    hint = "name one with -c FILE, or serve an app without one: trapeze serve module:app"
    reason = "there is no such file" if path else "there is no such file in the current directory"
    raise ConfigError([Problem("", reason, "" if path else hint, chosen)])


def _toml_value(text: str) -> object:
    import tomllib

    try:
        tree = tomllib.loads(f"value = {text}")
    except (tomllib.TOMLDecodeError, RecursionError):
        return text
    value = tree["value"] if len(tree) == 1 else text
    return value if isinstance(value, bool | int | float | list | dict | str) else text


def _has_address(path: str | None, environ: Mapping[str, str]) -> bool:
    """Does the file or the environment say where web listens? Then the default must not win over it."""
    if "TRAPEZE_SOCKETS__WEB__BIND" in environ or "TRAPEZE_SERVICES__WEB__SOCKET" in environ:
        return True
    if path is None:
        return False
    import tomllib

    try:
        with open(path, "rb") as file:
            tree = tomllib.load(file)
        return "web" in tree.get("sockets", {}) or "socket" in tree.get("services", {}).get("web", {})
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        return False  # `config.load` says what is wrong with it


def _run(path: str | None, overlay: Mapping[str, Any], origins: Mapping[str, str], *, keep_going: bool = False) -> int:
    from trapeze import app, config

    def load() -> Resolved:
        """Called again at each reload: the file may have changed, flags and environment count as before."""
        return config.load(path, overlay=overlay, overlay_origins=origins, environ=os.environ)

    only_read: list[CommandLine] | None = click.get_current_context().meta.get(_ONLY_READ)
    if only_read is not None:
        only_read.append(CommandLine(load, keep_going))
        return 0
    return app.run(load, keep_going=keep_going)


def understood(words: Sequence[str]) -> CommandLine:
    """What a command line says, without running it.

    Raises:
        click.ClickException: nothing that makes sense.
    """
    from trapeze.cli import cli

    found: list[CommandLine] = []
    with cli.make_context("trapeze", list(words)) as context:
        context.meta[_ONLY_READ] = found
        cli.invoke(context)
    return found[0]
