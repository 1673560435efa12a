"""The errors of this room."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bit_backbone.checkpoints.report import LoadReport


class CheckpointError(ValueError):
    """A checkpoint that cannot be found, read, understood, loaded or written.

    Attributes:
        report: The comparison, if the error is about tensors that do not fit.
    """

    def __init__(self, message: str, report: LoadReport | None = None) -> None:
        super().__init__(message)
        self.report = report


class NotDownloadedError(CheckpointError):
    """A file that was not downloaded before, while ``HF_HUB_OFFLINE`` is set."""
