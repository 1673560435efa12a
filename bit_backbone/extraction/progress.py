"""The progress bar of an extraction."""

from __future__ import annotations

from typing import Any

from bit_backbone.utils.progress import Bars


class ExtractionBar:
    """Shows images done, images per second and the time left, on stderr.

    Args:
        total: Number of images.
        done: Those of earlier runs.
        enabled: False shows nothing.
    """

    def __init__(self, total: int, done: int, enabled: bool) -> None:
        self._progress = Bars(enabled=enabled)
        self._task = self._progress.add_task(
            "extracting", total=total, completed=done, unit="image"
        )

    def __enter__(self) -> ExtractionBar:
        self._progress.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._progress.stop()

    def advance(self, images: int) -> None:
        """Moves the bar on."""
        self._progress.advance(self._task, images)
