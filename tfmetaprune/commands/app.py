"""The application that the commands add themselves to, and what it does about errors."""

import importlib
import sys
from typing import Annotated

import typer
from rich.console import Console
from typer.core import TyperGroup

from tfmetaprune.errors import TFMetaPruneError

_INTERRUPTED = 130  # what shells expect of a process that Ctrl-C has ended
_UsageError = typer.BadParameter.__mro__[2]  # ClickException, which some versions of typer take from click and some hold themselves


class _Group(TyperGroup):
    """Reports whatever a user can cause as one paragraph on stderr, with exit code 2; Ctrl-C as one line, with 130."""

    def main(self, *args, standalone_mode=True, **kwargs):
        try:
            code = super().main(*args, standalone_mode=False, **kwargs)
        except TFMetaPruneError as error:
            code = _complain(str(error))
        except _UsageError as error:
            context = getattr(error, "ctx", None)
            path = context.command_path if context else "tfmetaprune"
            message = error.format_message().rstrip(".")
            code = _complain(f"{message}{'' if message.endswith('?') else '.'} Run `{path} --help`.")
        except OSError as error:  # a full disk, say
            code = _complain(f"expected files that can be read and written, got {type(error).__name__}: {error}. Check the disk.")
        except (typer.Abort, KeyboardInterrupt):
            code = _INTERRUPTED
        except Exception as error:
            if not _is_of_tensorflow(error):
                raise
            told = (str(error).strip().splitlines() or [repr(error)])[0].rstrip(".")
            code = _complain(f"TensorFlow: expected data and models that it can read and run, got: {told}. Check the data.")
        if code == _INTERRUPTED:
            _print("Interrupted.")
        sys.exit(code or 0)


def _is_of_tensorflow(error) -> bool:
    """Whether TensorFlow itself raised an error while it ran: over an image that cannot be decoded, say."""
    tensorflow = sys.modules.get("tensorflow")  # not imported for this
    return tensorflow is not None and isinstance(error, tensorflow.errors.OpError)


def _complain(message) -> int:
    _print(f"Error: {' '.join(message.split())}")
    return 2


def _print(line):
    Console(stderr=True).print(line, style="red", markup=False, highlight=False, soft_wrap=True)


app = typer.Typer(cls=_Group, add_completion=False, pretty_exceptions_enable=False)


def _version(asked: bool):
    if asked:
        typer.echo(f"tfmetaprune {importlib.import_module('tfmetaprune').__version__}")
        raise typer.Exit()


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
):
    """Makes trained Keras networks small enough for edge devices."""
    del version
    if context.invoked_subcommand is None:
        typer.echo(context.get_help() or "", nl=False)  # rich prints it by itself


def examples(*lines) -> str:
    """The epilog of a command: example calls, one a line.

    Example:
      >>> examples("tfmetaprune demo", "tfmetaprune demo --seed 1")
      'Examples:\\n\\ntfmetaprune demo\\n\\ntfmetaprune demo --seed 1'
    """
    return "\n\n".join(("Examples:", *lines))
