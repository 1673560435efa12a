"""Batches of images of exactly one size.

GroupNorm takes its statistics over the whole map, padding included: an image padded to the size of
its neighbours has other features than by itself. So images share a batch only if they share a size.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from bit_backbone.extraction.decoding import Decoded

# Pixels of one batch (32 images of 512 x 512) and of the images that wait for others of their size.
BATCH_PIXELS = 32 * 512**2
WAITING_PIXELS = 4 * BATCH_PIXELS

Size = tuple[int, ...]


def batches_of_one_size(images: Iterable[Decoded], batch_size: int) -> Iterator[list[Decoded]]:
    """Groups images by their size.

    Args:
        images: Each with pixels.
        batch_size: Most images of a batch; large ones make smaller batches.

    Yields:
        Every image once, in batches of one size. A batch is full, or the last of its size, or the
        largest when too many wait.
    """
    waiting: dict[Size, list[Decoded]] = defaultdict(list)
    pixels = 0
    for image in images:
        size = _size(image)
        group = waiting[size]
        group.append(image)
        pixels += _area(size)
        if len(group) >= max(1, min(batch_size, BATCH_PIXELS // _area(size))):
            ready = size
        elif pixels > WAITING_PIXELS:
            ready = max(waiting, key=lambda other: len(waiting[other]) * _area(other))
        else:
            continue
        batch = waiting.pop(ready)
        pixels -= len(batch) * _area(ready)
        yield batch
    yield from waiting.values()


def _size(image: Decoded) -> Size:
    assert image.pixels is not None
    return image.pixels.shape


def _area(size: Size) -> int:
    return size[-2] * size[-1]
