"""Decodes every image before training, so that unreadable ones are found in minutes."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from bit_backbone.preprocessing.deep import BitDepth
from bit_backbone.preprocessing.images import read
from bit_backbone.training.progress import Progress
from bit_backbone.utils.unreadable import Unreadable, UnreadableImageError, reading

THREADS = 8  # Pillow releases Python's lock while it decodes


def unreadable_images(
    paths: Sequence[Path], bars: Progress, bit_depth: BitDepth
) -> list[Unreadable]:
    """Returns the images that cannot be read, and shows the progress.

    Args:
        paths: Paths of the images.
        bars: Shows the progress, and prints each unreadable image when it is found.
        bit_depth: Number of bits used of images with more than 8 bits per channel, or "auto".
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
