"""Progress bars on stderr, or in a notebook; silent where nobody watches or nothing can be shown."""

import contextlib
import contextvars
import importlib.util

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

_silent = contextvars.ContextVar("silent", default=False)


@contextlib.contextmanager
def no_progress():
    """Keeps the bars of this module from being shown while the body runs."""
    token = _silent.set(True)
    try:
        yield
    finally:
        _silent.reset(token)


@contextlib.contextmanager
def progress_bar(description, total=None):
    """Shows a bar while the body runs, and removes it afterwards.

    Args:
      description: what is being done.
      total: number of steps; None if unknown, then the bar only shows that something is happening.

    Yields:
      A function that says one more step is done; its arguments are ignored, so that it can be any callback.

    Example:
      >>> with progress_bar("Counting", 3) as advance:
      ...     for _ in range(3):
      ...         advance()
    """
    console = Console(stderr=True)
    columns = [SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()]
    if total is not None:
        columns.insert(3, MofNCompleteColumn())
    can_show = console.is_terminal or (console.is_jupyter and importlib.util.find_spec("ipywidgets") is not None)  # else rich warns
    watched = can_show and not _silent.get()
    with Progress(*columns, console=console, transient=True, disable=not watched) as progress:
        task = progress.add_task(description, total=total)
        yield lambda *_, **__: progress.advance(task)


@contextlib.contextmanager
def stage_progress():
    """Shows one bar for each stage of a long job.

    Yields:
      A function `progress(stage, done, total)`; a stage gets its bar when it is first named.
    """
    console = Console(stderr=True)
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
    tasks = {}
    with Progress(*columns, console=console, disable=not console.is_terminal or _silent.get()) as bars:

        def progress(stage, done, total):
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done)

        yield progress
