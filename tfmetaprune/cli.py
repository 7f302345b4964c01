"""The command line. TensorFlow is imported inside the commands alone, so that `--help` answers at once."""

import importlib

from tfmetaprune.commands.app import app

COMMANDS = (
    "demo",
    "inspect",
    "prune",
    "export",
    "benchmark",
    "compare",
    "meta_train",
    "report",
    "info",
)  # modules of `tfmetaprune.commands`, in the order of the help

for _name in COMMANDS:
    importlib.import_module(f"tfmetaprune.commands.{_name}")


def main():
    """Runs the command line: the entry point `tfmetaprune`."""
    app()
