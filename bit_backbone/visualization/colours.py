"""Colour scales for maps: one from dark to light, one from blue over white to red."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image
from torch import Tensor

# Equally spaced colours, with linear interpolation between them. Lightness increases with the
# value, so the order is also visible in grey and to colour-blind readers.
_SEQUENTIAL = ((16, 10, 62), (88, 28, 126), (176, 48, 110), (236, 96, 66), (250, 176, 62),
               (252, 252, 190))  # fmt: skip
_DIVERGING = ((20, 60, 160), (110, 160, 225), (247, 247, 247), (240, 140, 110), (165, 15, 35))
LEVELS = 256


def _scale(anchors: tuple[tuple[int, int, int], ...]) -> np.ndarray:
    places = np.linspace(0, len(anchors) - 1, LEVELS)
    channels = np.array(anchors).T
    table = [np.interp(places, np.arange(len(anchors)), channel) for channel in channels]
    return np.stack(table, axis=1).round().astype(np.uint8)


SEQUENTIAL = _scale(_SEQUENTIAL)
"""uint8 [256, 3]: the colours from the smallest value to the largest."""
DIVERGING = _scale(_DIVERGING)
"""uint8 [256, 3]: the colours of values from -1 to 1; white is 0."""


def coloured(
    values: Tensor, low: float, high: float, scale: np.ndarray = SEQUENTIAL
) -> Image.Image:
    """Draws a map, one pixel per value.

    Args:
        values: [H, W].
        low: The value of the scale's first colour.
        high: The value of the scale's last colour.
        scale: uint8 [256, 3].

    Returns:
        A palette image whose indices are the levels.
    """
    width = high - low or 1.0  # if all values are equal: the first colour
    levels = ((values - low) * ((LEVELS - 1) / width)).round().clamp(0, LEVELS - 1)
    picture = Image.fromarray(levels.byte().cpu().numpy())
    picture.putpalette(scale.tobytes())
    return picture


def png_bytes(picture: Image.Image) -> bytes:
    """Encodes a picture as PNG, faster but larger than by default."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
