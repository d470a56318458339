"""Progress bars in the terminal for anything that takes a `Task`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ex4d.task import Progress as Step
from ex4d.task import Task


@contextmanager
def progress_bars(kept_folder: Path | None = None) -> Iterator[Task]:
    """Show one bar per stage on stderr while the block runs, where stderr is a terminal.

    Args:
        kept_folder: See `Task`.
    """
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description:>12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        stages: dict[str, TaskID] = {}

        def report(step: Step) -> None:
            if step.stage not in stages:
                stages[step.stage] = bars.add_task(step.stage, total=step.total)
            bars.update(stages[step.stage], completed=step.done, total=step.total)

        yield Task(report, kept_folder=kept_folder)
