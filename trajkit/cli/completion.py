"""`trajkit completion`."""

from __future__ import annotations

import click

from trajkit.cli import Command

SHELLS = ("bash", "zsh", "fish")


@click.command(cls=Command)
@click.argument("shell", type=click.Choice(SHELLS))
def command(shell: str) -> None:
    """Print the script that makes SHELL complete commands, flags, methods, plans and formats.

    \b
    trajkit completion bash > ~/.local/share/bash-completion/completions/trajkit
    trajkit completion zsh > ~/.zfunc/_trajkit      (a folder of $fpath)
    trajkit completion fish > ~/.config/fish/completions/trajkit.fish
    """
    from click.shell_completion import get_completion_class

    from trajkit.cli import cli

    script = get_completion_class(shell)
    assert script is not None  # click knows all of SHELLS
    click.echo(script(cli, {}, "trajkit", "_TRAJKIT_COMPLETE").source())
