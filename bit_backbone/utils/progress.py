"""Progress of long work on stderr: bars on a terminal, occasional lines in a log."""

from __future__ import annotations

import math
import time
from collections import deque
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
    TaskID,
    TaskProgressColumn,
)
from rich.text import Text

T = TypeVar("T")

LOG_INTERVAL = 10.0  # seconds
WINDOW = 30.0  # seconds that a rate covers
SLOT = 0.1  # seconds within which items count as done at once


class _History:
    """When how much of a task was done, for the rate of its last half minute.

    The rate counts from the task's start or from an earlier advance, never from the first item of
    the latest batch: items of one batch arrive within microseconds of each other.

    Args:
        now: Time of the start, in seconds.
        done: Items done before.
    """

    def __init__(self, now: float, done: float) -> None:
        self._samples = deque([(now, done)])
        self._latest = now, done

    def add(self, now: float, done: float) -> None:
        """Notes that items were done."""
        if done == self._latest[1]:
            return
        self._latest = now, done
        if now - self._samples[-1][0] >= SLOT:
            self._samples.append(self._latest)
        elif len(self._samples) > 1:  # of the same batch
            self._samples[-1] = self._samples[-1][0], done
        while len(self._samples) > 1 and self._samples[1][0] <= now - WINDOW:
            self._samples.popleft()

    def rate(self, now: float, finished: bool) -> float:
        """Returns items per second up to the latest ones; in a long pause, up to now."""
        (began, before), (latest, done) = self._samples[0], self._latest
        end = now if now - latest > WINDOW and not finished else latest
        return (done - before) / (end - began) if end > began else 0.0


class Pace(ProgressColumn):
    """The rate of the last half minute, and the remaining time: 4.0 images/s, 0:02:10 left.

    Rich's own two columns are updated at different times, so they may disagree; and their rate is
    that of the latest batch's items among themselves, if it is the only one.
    """

    def render(self, task: Task) -> Text:
        """Returns rate and remaining time, or nothing while there is no rate."""
        history, unit = task.fields["history"], task.fields.get("unit", "item")
        if not (speed := history.rate(task.get_time(), task.finished)):
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

    def add_task(
        self,
        description: str,
        start: bool = True,
        total: float | None = 100.0,
        completed: int = 0,
        visible: bool = True,
        **fields: Any,
    ) -> TaskID:
        """Adds a task, as rich does."""
        fields["history"] = _History(self.get_time(), completed)
        return super().add_task(description, start, total, completed, visible, **fields)

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """Changes a task, as rich does."""
        super().update(task_id, **changes)
        self._note(task_id)

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """Advances a task, as rich does."""
        super().advance(task_id, advance)
        self._note(task_id)

    def _note(self, task_id: TaskID) -> None:
        with self._lock:
            task = self._tasks[task_id]
            task.fields["history"].add(self.get_time(), task.completed)
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
