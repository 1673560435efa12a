"""Which files are images, by their names: one list for every command."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import PurePath

# What Pillow reads without a program beside it: its list has EPS and PDF too.
IMAGE_SUFFIXES = (
    *(".avif", ".bmp", ".dib", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm"),
    *(".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"),
)
MOST_NAMES = 5  # that a message spells out
# What operating systems leave in folders of pictures: macOS's archives, Synology's index, Windows'
# bin and thumbnails. Names that begin with a dot, such as .ipynb_checkpoints and the ._NAME.jpg of
# macOS, are the others.
_LEFT_BEHIND = frozenset(
    ("__macosx", "@eadir", "$recycle.bin", "system volume information", "thumbs.db", "desktop.ini")
)


def is_clutter(name: str) -> bool:
    """Whether a file or folder of this name was put there by a system and not by a person."""
    return name.startswith(".") or name.lower() in _LEFT_BEHIND


def has_clutter(path: str) -> bool:
    """Whether any part of a path below a data set is clutter; ".." is none."""
    parts = PurePath(path).parts
    return any(is_clutter(part) for part in parts if part not in (".", ".."))


def has_image_suffix(name: str) -> bool:
    """Whether a file's name ends as an image's does."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def is_image(name: str) -> bool:
    """Whether the name of a file says that it is an image, in itself and not of a system."""
    return has_image_suffix(name) and not is_clutter(os.path.basename(name))


class Ignored:
    """What a search for images skipped: files by their ending, and what operating systems leave.

    Attributes:
        endings: How many files there are of each.
        clutter: Names of files and folders that operating systems leave, as they were found.
    """

    def __init__(self) -> None:
        self.endings: Counter[str] = Counter()
        self.clutter: dict[str, None] = {}

    def add(self, name: str) -> None:
        """Takes up a file that is no image, by its path."""
        base = os.path.basename(name)
        if is_clutter(base):
            self.clutter[base] = None
        else:
            self.endings[os.path.splitext(base)[1].lower() or "no ending"] += 1

    def __len__(self) -> int:
        return self.endings.total() + len(self.clutter)

    def __str__(self) -> str:
        files = ", ".join(f"{count} x {ending}" for ending, count in self.endings.most_common())
        names = list(self.clutter)
        if len(names) > MOST_NAMES:
            names[MOST_NAMES:] = [f"{len(names) - MOST_NAMES} more"]
        return "; ".join(filter(None, (files, "passed over: " * bool(names) + ", ".join(names))))
