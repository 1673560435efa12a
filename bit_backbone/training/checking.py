"""Decoding every image before a training that would take hours to meet the last of them."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from bit_backbone.preprocessing.deep import BitDepth
from bit_backbone.preprocessing.images import read
from bit_backbone.training.progress import Progress
from bit_backbone.utils.unreadable import Unreadable, UnreadableImageError, reading

THREADS = 8  # Pillow decodes outside of Python's lock


def unreadable_images(
    paths: Sequence[Path], bars: Progress, bit_depth: BitDepth
) -> list[Unreadable]:
    """Returns the images that cannot be read, and shows the progress.

    Args:
        paths: Of the files.
        bars: Where to show it; the unreadable ones are printed there as they are met.
        bit_depth: How many bits of images of more than 8 per channel are used, or "auto".
    """
    found = []
    bar = bars.checking(len(paths))
    with ThreadPoolExecutor(THREADS) as pool:
        for failure in pool.map(partial(_failure, bit_depth), range(len(paths)), paths):
            bar.advance(1)
            if failure is not None:
                bars.warn(f"unreadable image: {failure.reason}")
                found.append(failure)
    return found


def _failure(bit_depth: BitDepth, index: int, path: Path) -> Unreadable | None:
    try:
        with reading(path, f"{path}: ", once=True):
            read(path, True, None, 1.0, bit_depth)
    except UnreadableImageError as error:
        return Unreadable.of(index, error)
    return None
