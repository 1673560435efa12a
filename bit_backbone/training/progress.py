"""Progress bars of a training run."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from bit_backbone.utils.progress import Bars

_LOGGER = logging.getLogger(__name__)


class Progress:
    """Shows steps with their loss, and evaluations, on stderr.

    Args:
        enabled: False shows nothing.
    """

    def __init__(self, enabled: bool) -> None:
        self._bars = Bars(enabled=enabled)

    def __enter__(self) -> Progress:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def training(self, name: str, total: int, done: int) -> Task:
        """Adds the bar of the steps, and reports the steps of an earlier run."""
        if 0 < done < total:
            self.report(f"{name} resumes after step {done}")
        return self._add(name, total, done, "step")

    def evaluation(self, total: int) -> Task:
        """Adds the bar of an evaluation's examples."""
        return self._add("evaluation", total, 0, "image")

    def checking(self, total: int) -> Task:
        """Adds the bar of the images decoded before training."""
        return self._add("checking images", total, 0, "image")

    def report(self, text: str, **values: float) -> None:
        """Prints a line with values, above the bars where there are any."""
        if not self._bars.disable:
            parts = [text, _listed(values)] if values else [text]
            self._bars.console.print("  ".join(parts), highlight=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """Prints a line above the bars, or logs it where none are shown."""
        if self._bars.disable:
            _LOGGER.warning("%s", text)
        else:
            self.report(text)

    def _add(self, name: str, total: int, done: int, unit: str) -> Task:
        number = self._bars.add_task(name, total=total, completed=done, unit=unit)
        return Task(self._bars, number)


class Task:
    """One bar."""

    def __init__(self, bars: Bars, number: Any) -> None:
        self._bars, self._number = bars, number

    def advance(self, count: int, **values: float) -> None:
        """Advances the bar, and shows values beside it."""
        self._bars.update(self._number, advance=count, values=_listed(values))

    def remove(self) -> None:
        """Removes the bar."""
        self._bars.remove_task(self._number)


def _listed(values: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in values.items())
