"""The application that the commands add themselves to, and what it does about errors."""

import importlib
from typing import Annotated

import typer
from rich.console import Console
from typer.core import TyperGroup

from tfmetaprune.errors import TFMetaPruneError


class _Group(TyperGroup):
    """Reports every `TFMetaPruneError` as one paragraph on stderr, with exit code 2."""

    def invoke(self, ctx):
        try:
            return super().invoke(ctx)
        except TFMetaPruneError as error:
            Console(stderr=True).print(f"Error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
            raise typer.Exit(2) from error


app = typer.Typer(cls=_Group, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def _version(asked: bool):
    if asked:
        typer.echo(f"tfmetaprune {importlib.import_module('tfmetaprune').__version__}")
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
):
    """Makes trained Keras networks small enough for edge devices."""
    del version


def examples(*lines) -> str:
    """The epilog of a command: example calls, one a line.

    Example:
      >>> examples("tfmetaprune demo", "tfmetaprune demo --seed 1")
      'Examples:\\n\\ntfmetaprune demo\\n\\ntfmetaprune demo --seed 1'
    """
    return "\n\n".join(("Examples:", *lines))
