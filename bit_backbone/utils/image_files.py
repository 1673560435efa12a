"""Which files are images, by their names: one list for every command."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import PurePath

# What Pillow reads without a program beside it: its list has EPS and PDF too.
IMAGE_SUFFIXES = (
    *(".avif", ".bmp", ".dib", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm"),
    *(".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"),
)
# What systems leave behind in folders of pictures: macOS's archives, Synology's index, Windows'
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


def is_image(name: str) -> bool:
    """Whether the name of a file says that it is an image, in itself and not of a system."""
    base = os.path.basename(name)
    return os.path.splitext(base)[1].lower() in IMAGE_SUFFIXES and not is_clutter(base)


def count_endings(names: Iterable[str]) -> str:
    """Returns how many files have which ending: "12 x .txt, 1 x no ending"."""
    counts = Counter(os.path.splitext(name)[1].lower() or "no ending" for name in names)
    return ", ".join(f"{count} x {ending}" for ending, count in counts.most_common())
