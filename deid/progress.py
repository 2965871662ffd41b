"""Progress bars with a time estimate; quiet lines where there is no terminal."""

from collections.abc import Iterator
from contextlib import contextmanager

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

console = Console(stderr=True)


class Bar:
    """One line of progress: `advance(n)` moves it, `note(text)` says something beside it."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task

    def advance(self, by: int = 1) -> None:
        self._progress.advance(self._task, by)

    def note(self, text: str) -> None:
        self._progress.update(self._task, note=text)


@contextmanager
def progress(description: str, total: int, done: int = 0, shown: bool = True) -> Iterator[Bar]:
    """Show `description` with count, bar, elapsed and remaining time; `done` is what was before.

    With `shown` false nothing appears: of several processes one speaks.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, refresh_per_second=2, disable=not shown) as bars:
        yield Bar(bars, bars.add_task(description, total=total, completed=done, note=""))
