"""Whether a source is still there: where a disk was mounted, an empty folder stays."""

from __future__ import annotations

import os
from pathlib import Path


class SourceFolder:
    """The folder that stands for a source, as it was when the source was listed.

    Args:
        path: Taken from the working folder if it is relative.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._identity = _identity(self.path)

    def __reduce__(self) -> tuple[type[SourceFolder], tuple[Path]]:
        """Looks again in the process that gets it: machines number their disks differently."""
        return type(self), (self.path,)

    def trouble(self) -> str | None:
        """Returns why the source is gone; None if it is there."""
        identity = _identity(self.path)
        if identity is None:
            return f"no {self.path}"
        if _is_empty(self.path):
            return f"{self.path} is empty"
        if identity != self._identity:
            return f"{self.path} is another folder than when it was listed"
        return None


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _is_empty(path: Path) -> bool:
    try:
        with os.scandir(path) as entries:
            return next(entries, None) is None
    except OSError:  # files can be read in a folder that may not be listed
        return False
