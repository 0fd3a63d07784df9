"""The command line. Verbs live in modules of their own, imported when they are called for.

`trapeze serve` must not wait for what only `trapeze status` needs: tests/unit/test_cli_imports.py holds the list.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

import click

from trapeze import __version__
from trapeze.cli.common import explain, instance, say_error
from trapeze.errors import TrapezeError

__all__ = ["cli", "main"]

_VERBS = {
    "serve": "run",
    "up": "run",
    "check": "settings",
    "config": "settings",
    "schema": "settings",
    "backends": "backends",
    "bench": "bench",
    "nginx": "nginx",
    "doctor": "doctor",
    "ls": "look",
    "status": "look",
    "logs": "look",
    "events": "look",
    "metrics": "look",
    "reload": "order",
    "restart": "order",
    "rollback": "order",
    "scale": "order",
    "start": "order",
    "stop": "order",
    "signal": "order",
    "shutdown": "order",
    "upgrade": "upgrade",
    "completion": "completion",
}
"""Verb to the module that has it, in the order of the help."""


class LazyGroup(click.Group):
    """A group that imports a verb when it is called, and shows errors our way."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in the order of the table."""
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one verb."""
        if cmd_name not in _VERBS:
            return None
        found = getattr(import_module(f"trapeze.cli.{_VERBS[cmd_name]}"), cmd_name)
        assert isinstance(found, click.Command)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with a "did you mean" over all verbs."""
        word = args[0]
        if word not in _VERBS and not word.startswith("-") and not ctx.resilient_parsing:
            from difflib import get_close_matches

            close = get_close_matches(word, _VERBS, n=1)
            suggestion = f', did you mean "{close[0]}"?' if close else ""
            raise click.UsageError(f'No such command "{word}"{suggestion}', ctx=ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb; ^C and a reader that leaves (`| head`) end it without words."""
        try:
            result = super().invoke(ctx)
            if sys.stdout is not None:  # it is when descriptor 1 was closed
                sys.stdout.flush()
            return result
        except KeyboardInterrupt:
            raise SystemExit(130) from None
        except BrokenPipeError:
            # What is still in the buffer must not raise again at exit.
            _mute_stdout()
            raise SystemExit(141) from None

    def main(  # type: ignore[override]  # click's overloads, for a mode that is ours here
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> NoReturn:
        """Run and exit; every error on stderr as `error: ...` and, where there is one, `hint: ...`."""
        extra.pop("standalone_mode", None)
        try:
            code = super().main(args, prog_name or "trapeze", standalone_mode=False, **extra)
        except click.ClickException as error:
            code = explain(error)
        except click.Abort:
            code = 130
        except TrapezeError as error:
            code = say_error(error)
        sys.exit(code if isinstance(code, int) else 0)


def _mute_stdout() -> None:
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
    except (OSError, ValueError):  # a stdout that is no file
        pass


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 no instance is running, 4 not done in time.",
)
@click.option("--name", metavar="NAME", type=instance, help="Which instance; needed only where several run.")
@click.version_option(__version__, prog_name="trapeze", message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context, name: str | None) -> None:
    """Serve Python web apps, and the side services they need.

    \b
    trapeze serve app:wsgi --workers 4     one app, no file
    trapeze up                             what trapeze.toml says
    trapeze reload web                     new code, nothing lost
    trapeze status                         what runs, and why
    """
    ctx.obj = name


def main() -> NoReturn:
    """Entry point of the `trapeze` command."""
    cli.main(prog_name="trapeze")
