"""`completion`: the script that teaches a shell our verbs, options and services."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

__all__ = ["completion"]


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, /, shell: str) -> int:
    """Print a completion script.

    \b
    bash:  eval "$(trapeze completion bash)"                                  in ~/.bashrc
    zsh:   eval "$(trapeze completion zsh)"                                   in ~/.zshrc
    fish:  trapeze completion fish > ~/.config/fish/completions/trapeze.fish
    """
    found = get_completion_class(shell)
    assert found is not None
    root = ctx.find_root().command
    script = found(root, {}, "trapeze", "_TRAPEZE_COMPLETE")
    # Not `source()`: for bash it runs bash to ask for its version.
    click.echo(script.source_template % script.source_vars())
    return 0
