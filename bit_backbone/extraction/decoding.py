"""From an image's bytes to its pixels, as the processor leaves them before normalisation."""

from __future__ import annotations

import io
import math
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from bit_backbone.extraction.errors import ExtractionError
from bit_backbone.extraction.listing import ImageRef
from bit_backbone.extraction.source_folder import SourceFolder
from bit_backbone.preprocessing import BitImageProcessor
from bit_backbone.preprocessing.images import decode, header_size
from bit_backbone.preprocessing.settings import PLAIN
from bit_backbone.utils.out_of_memory import TooLargeError, fitting
from bit_backbone.utils.unreadable import MACHINE_TROUBLES
from bit_backbone.utils.workers import serve_parent

# What reading a file raises when the disk that it was on is no longer there.
_OUT_OF_REACH = (FileNotFoundError, NotADirectoryError, PermissionError)
# Images that a worker returns at once: sending each costs more than a small image.
_CHUNK = 4


@dataclass(frozen=True, slots=True)
class Decoded:
    """An image, or why there is none.

    Attributes:
        ref: Which one.
        pixels: [C, H, W], uint8, resized and not yet normalised; None without an image.
        size: (height, width) before resizing, upright.
        reason: Why there is no image.
        fatal: Whether the reason concerns every other image too.
        seconds: Spent on reading, decoding and resizing.
    """

    ref: ImageRef
    pixels: np.ndarray | None = None
    size: tuple[int, int] = (0, 0)
    reason: str | None = None
    fatal: bool = False
    seconds: float = 0.0

    def raise_if_fatal(self) -> None:
        """Raises ExtractionError if the reason concerns every other image too."""
        if self.fatal:
            raise ExtractionError(f"stopped at {self.ref.path}: {self.reason}")


class Decoder:
    """Reads images, and never raises for one.

    Args:
        processor: What it does before rescaling happens here; it returns 8 bits per channel.
        root: The folder whose disappearance means that the source is gone.
    """

    def __init__(self, processor: BitImageProcessor, root: SourceFolder) -> None:
        plain = processor.replace(**PLAIN)
        self._processor = plain.replace(do_rescale=False, do_normalize=False)
        self._root = root
        self._fitted = 0  # pixels of the largest image that has fitted into memory

    def __call__(self, ref: ImageRef) -> Decoded:
        """Reads one image."""
        start = time.perf_counter()
        if ref.problem is not None:
            return Decoded(ref, reason=ref.problem)
        try:
            with fitting("the decoded image"):
                image = decode(_source(ref), ref.path, self._processor.bit_depth)
                pixels = self._processor(image)["pixel_values"][0].numpy()
        except TooLargeError as error:
            return too_large(ref, _pixels_in_header(ref), self._fitted, error)
        except (OSError, ValueError) as error:
            return self._failure(ref, error)
        self._fitted = max(self._fitted, image.height * image.width)
        seconds = time.perf_counter() - start
        return Decoded(ref, pixels, (image.height, image.width), seconds=seconds)

    def _failure(self, ref: ImageRef, error: Exception) -> Decoded:
        reason = str(error) or type(error).__name__
        if isinstance(error, _OUT_OF_REACH) and (trouble := self._root.trouble()) is not None:
            return Decoded(ref, reason=f"the source is gone: {trouble}", fatal=True)
        return Decoded(ref, reason=reason, fatal=getattr(error, "errno", None) in MACHINE_TROUBLES)


def too_large(ref: ImageRef, pixels: int, fitted: int, error: TooLargeError) -> Decoded:
    """Returns the failure of an image that does not fit into memory.

    It is fatal where the image is no larger than one that has fitted: then memory is short for any
    image, and a failure is for good, since its shard counts as finished.

    Args:
        ref: Which one.
        pixels: Of the image.
        fitted: Pixels of the largest image that has fitted in this process.
        error: What it does not fit into.
    """
    if pixels > fitted:
        return Decoded(ref, reason=str(error))
    reason = f"{error}. Images as large have fitted: repeat the command when there is more memory"
    return Decoded(ref, reason=reason, fatal=True)


def _pixels_in_header(ref: ImageRef) -> int:
    try:
        size = header_size(_source(ref))
    except MemoryError:
        size = None  # not even the file fits, which is not the image's size
    return math.prod(size) if size else 0


def _source(ref: ImageRef) -> str | io.BytesIO:
    """Returns what Pillow opens: the file, or the image's bytes in a shard."""
    if ref.size is None:
        _check_file(ref.file)
        return ref.file
    with open(ref.file, "rb") as file:
        file.seek(ref.offset)
        data = file.read(ref.size)
    if len(data) < ref.size:
        raise ValueError(f"the shard ends {ref.size - len(data)} bytes before the image does")
    return io.BytesIO(data)


def _check_file(path: str) -> None:
    """Rejects an empty file, and a named pipe, which would wait for its writer for ever."""
    if not os.path.isfile(path) and os.path.exists(path):
        raise ValueError("this is no regular file")
    if os.path.getsize(path) == 0:
        raise ValueError("the file is empty")


def decoded_images(
    decoder: Decoder, shards: Iterable[Iterable[ImageRef]], workers: int
) -> Iterator[Decoded]:
    """Reads images ahead of their use, in order.

    Args:
        decoder: Reads each.
        shards: The images, in parts.
        workers: Processes that read, each up to two chunks ahead; 0 reads in this one.

    Raises:
        ExtractionError: An image failed for a reason that concerns all of them, or a worker died.
    """
    from torch.utils.data import DataLoader

    # References travel to the workers instead of indices: a worker needs no copy of the listing.
    chunks: Any = _Chunks(shards)
    reading: Any = _Reading(decoder)
    loader: Iterable[list[Decoded]] = DataLoader(
        reading,
        batch_sampler=chunks,
        num_workers=workers,
        collate_fn=list,
        worker_init_fn=serve_parent,
    )
    for chunk in _watched(loader):
        for image in chunk:
            image.raise_if_fatal()
            yield image


def _watched(loader: Iterable[list[Decoded]]) -> Iterator[list[Decoded]]:
    """Says in one line that a worker died, of too little memory for example."""
    try:
        yield from loader
    except (RuntimeError, OSError) as error:
        raise ExtractionError(f"the processes that read ahead failed: {error}") from error


class _Chunks:
    def __init__(self, shards: Iterable[Iterable[ImageRef]]) -> None:
        self._shards = shards

    def __iter__(self) -> Iterator[list[ImageRef]]:
        for shard in self._shards:
            refs = list(shard)
            yield from (refs[i : i + _CHUNK] for i in range(0, len(refs), _CHUNK))


class _Reading:
    """What torch calls a data set, with references as its indices."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder

    def __getitem__(self, ref: ImageRef) -> Decoded:
        return self._decoder(ref)
