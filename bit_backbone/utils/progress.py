"""Progress of long work on stderr: bars on a terminal, occasional lines in a log."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskProgressColumn,
)
from rich.text import Text

T = TypeVar("T")

LOG_INTERVAL = 10.0  # seconds


class Pace(ProgressColumn):
    """The rate of the last half minute, and the remaining time: 4.0 images/s, 0:02:10 left.

    Rich's own two columns are updated at different times, so they may disagree.
    """

    def render(self, task: Task) -> Text:
        """Returns rate and remaining time, or nothing while there is no rate."""
        speed, unit = task.finished_speed or task.speed, task.fields.get("unit", "item")
        if not speed:
            return Text("")
        rate = f"{speed:.1f} {unit}s/s" if speed >= 1 else f"{1 / speed:.1f} s/{unit}"
        left = timedelta(seconds=math.ceil((task.remaining or 0) / speed))
        return Text(rate if task.finished else f"{rate}, {left} left")


class Bars(Progress):
    """Rich's progress bars, which also print progress lines if there is no terminal.

    Without a terminal, Rich prints nothing until the end, so a run that logs to a file looks dead.
    Every bar shows a description, the done and total counts, and its pace. The fields of a task are
    ``unit``, such as "image", and ``values``, text to show at the end.

    Args:
        enabled: False shows nothing.
        **options: Other arguments of ``rich.progress.Progress``.
    """

    def __init__(self, *, enabled: bool = True, **options: Any) -> None:
        # The bar is narrow, so that a line fits into the 80 columns of a log.
        columns = BarColumn(20), TaskProgressColumn(), MofNCompleteColumn(), Pace()
        options |= {"console": Console(stderr=True), "disable": not enabled}
        super().__init__("{task.description}", *columns, _Values(), **options)
        console = self.console
        shows_bars = console.is_jupyter or (console.is_terminal and not console.is_dumb_terminal)
        self._logs = enabled and not shows_bars
        self._began = time.monotonic()
        self._next_line = self._began + LOG_INTERVAL

    def update(self, *args: Any, **changes: Any) -> None:
        """Changes a task, as rich does."""
        super().update(*args, **changes)
        self._log()

    def advance(self, *args: Any, **changes: Any) -> None:
        """Advances a task, as rich does."""
        super().advance(*args, **changes)
        self._log()

    def _log(self) -> None:
        if not self._logs or self.finished:
            return
        now = time.monotonic()
        if now >= self._next_line:
            # Lines become rarer with time: a run of days prints a few hundred.
            self._next_line = now + max(LOG_INTERVAL, (now - self._began) / 50)
            self.console.print(self.make_tasks_table([t for t in self.tasks if not t.finished]))


class _Values(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(task.fields.get("values", ""))


def track(
    items: Iterable[T],
    description: str,
    total: int | None = None,
    *,
    enabled: bool = True,
    transient: bool = False,
) -> Iterator[T]:
    """Yields the items, and shows how many of them are done.

    Args:
        items: The items to process.
        description: Text before the bar.
        total: Number of items, if ``len`` does not give it.
        enabled: False shows nothing.
        transient: Whether the bar disappears at the end.
    """
    with Bars(enabled=enabled, transient=transient) as bars:
        yield from bars.track(items, total, description=description)
