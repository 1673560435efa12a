"""COCO's masks as arrays: run lengths (https://cocodataset.org/#format-data) and polygons."""

from itertools import cycle
from types import ModuleType
from typing import Any

import numpy as np

from bit_backbone.utils.extras import require


def encode_runs(mask: np.ndarray) -> list[int]:
    """Returns the lengths of a mask's runs of 0 and 1, column by column, the first run being of 0.

    This is the uncompressed form of ``segmentation["counts"]``, which needs no library to write.

    Args:
        mask: bool [H, W].
    """
    pixels = mask.ravel(order="F")
    changes = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    first = [0] if pixels[:1].any() else []  # a mask that starts with 1 has an empty run of 0
    return first + np.diff(np.concatenate([[0], changes, [pixels.size]])).tolist()


def parse_runs(counts: str) -> list[int]:
    """Returns the run lengths that pycocotools has compressed to a string.

    The string holds little-endian numbers of 5 bits per character, offset by 48. Bit 5 means that
    the number continues; bit 4 of its last character is the sign. From the fourth number on, each
    is the difference to the run two places earlier (cocoapi, ``common/maskApi.c``, rleToString).

    pycocotools' own decoder is not used: with too few runs it returns uninitialized memory.

    Raises:
        ValueError: The string ends within a number, or has other characters.
    """
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"no run lengths: character {character!r}")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (bits & 16) << (shift - 4)
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("no run lengths: ends within a number")
    return runs


def decode_mask(segmentation: Any, height: int, width: int) -> np.ndarray:
    """Returns the mask of an object, uint8 [H, W].

    Args:
        segmentation: Polygons, or run lengths, compressed or not, that add up to the image.
        height: Height of the image in pixels.
        width: Its width.

    Raises:
        MissingExtraError: There are polygons and pycocotools is missing.
    """
    if isinstance(segmentation, list):
        api = import_mask_api()
        return api.decode(api.merge(api.frPyObjects(segmentation, height, width)))
    counts = segmentation["counts"]
    runs = parse_runs(counts) if isinstance(counts, str) else counts
    values = np.fromiter(cycle((0, 1)), np.uint8, count=len(runs))
    return np.repeat(values, runs).reshape(width, height).T


def import_mask_api() -> ModuleType:
    """Returns ``pycocotools.mask``, which fills polygons in a way of its own.

    Raises:
        MissingExtraError: pycocotools is missing.
    """
    return require("pycocotools.mask", "demo", "reading masks given as polygons")
