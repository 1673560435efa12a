"""Progress bars of a training run."""

from __future__ import annotations

from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from bit_backbone.utils.progress import Bars


class Progress:
    """Shows steps with their loss, and evaluations, on stderr.

    Args:
        enabled: False shows nothing.
    """

    def __init__(self, enabled: bool) -> None:
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[values]}"),
            enabled=enabled,
        )

    def __enter__(self) -> Progress:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def training(self, name: str, total: int, done: int) -> Task:
        """Adds the bar of the steps, and tells of those that an earlier run has done."""
        if 0 < done < total and not self._bars.disable:
            self._bars.console.print(f"{name} goes on after step {done}")
        return self._add(name, total, done)

    def evaluation(self, total: int) -> Task:
        """Adds the bar of an evaluation's examples."""
        return self._add("evaluation", total, 0)

    def _add(self, name: str, total: int, done: int) -> Task:
        return Task(self._bars, self._bars.add_task(name, total=total, completed=done, values=""))


class Task:
    """One bar."""

    def __init__(self, bars: Bars, number: Any) -> None:
        self._bars, self._number = bars, number

    def advance(self, count: int, **values: float) -> None:
        """Moves the bar on, and shows values beside it."""
        shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        self._bars.update(self._number, advance=count, values=shown)

    def remove(self) -> None:
        """Takes the bar away."""
        self._bars.remove_task(self._number)
