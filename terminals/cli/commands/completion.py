"""`swm completion`: what a shell needs to complete our commands."""

from __future__ import annotations

import click

from terminals.cli.command import Command


@click.command(
    cls=Command,
    examples=[
        "swm completion bash >> ~/.bashrc",
        "swm completion zsh  >> ~/.zshrc",
        "swm completion fish > ~/.config/fish/completions/swm.fish",
    ],
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]), metavar="SHELL")
def completion(shell: str) -> None:
    """Print a script for shell completion.

    It makes SHELL (bash, zsh or fish) complete commands, options and job ids.
    """
    from click.shell_completion import ShellComplete, get_completion_class

    from terminals.cli.main import cli

    kind = get_completion_class(shell)
    assert kind is not None  # noqa: S101 - the choice above
    # Of the base class: that of bash runs bash to look at its version, and says so in the output.
    text = ShellComplete.source(kind(cli, {}, "swm", "_SWM_COMPLETE"))
    if shell == "zsh":
        # What it calls is there only once a .zshrc has asked for completion.
        text = f"(( $+functions[compdef] )) || {{ autoload -Uz compinit && compinit; }}\n{text}"
    click.echo(text)
