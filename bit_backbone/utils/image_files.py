"""Which files are images, by their names: one list for every command."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import PurePath

# Formats that Pillow reads without another program; its own list also has EPS and PDF.
IMAGE_SUFFIXES = (
    *(".avif", ".bmp", ".dib", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm"),
    *(".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"),
)
MOST_NAMES = 5  # names that a message spells out
# Names that operating systems leave in folders of pictures: macOS's archives, Synology's index,
# Windows' bin and thumbnails. Names that begin with a dot, such as .ipynb_checkpoints and macOS's
# ._NAME.jpg, are clutter too.
_LEFT_BEHIND = frozenset(
    ("__macosx", "@eadir", "$recycle.bin", "system volume information", "thumbs.db", "desktop.ini")
)


def is_clutter(name: str) -> bool:
    """Whether a file or folder of this name comes from a system and not from a person."""
    return name.startswith(".") or name.lower() in _LEFT_BEHIND


def has_clutter(path: str) -> bool:
    """Whether any part of a path below a data set is clutter; ".." is not."""
    parts = PurePath(path).parts
    return any(is_clutter(part) for part in parts if part not in (".", ".."))


def has_image_suffix(name: str) -> bool:
    """Whether a file's name has the suffix of an image."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def is_image(name: str) -> bool:
    """Whether a file's name is that of an image and not of a system's file."""
    return has_image_suffix(name) and not is_clutter(os.path.basename(name))


class Ignored:
    """The files that a search for images skipped.

    Attributes:
        endings: Number of files that are not images, by suffix.
        clutter: Names of files and folders left by operating systems, in the order found.
    """

    def __init__(self) -> None:
        self.endings: Counter[str] = Counter()
        self.clutter: dict[str, None] = {}

    def add(self, name: str) -> None:
        """Records a file that is not an image, given its path."""
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
