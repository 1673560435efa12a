"""TIFF files that Pillow cannot read, such as floats in colour, read by tifffile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import numpy as np
from PIL import Image
from PIL.ExifTags import Base

from bit_backbone.preprocessing.deep import BitDepth, has_lost_bits, numbers_to_eight_bits
from bit_backbone.utils.extras import MissingExtraError, require

_BEGINNINGS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # both orders of bytes; BigTIFF
_MOST_CHANNELS = 4


def is_for_tifffile(file: IO[bytes], image: Image.Image | None) -> bool:
    """Whether a file is a TIFF that Pillow cannot read, or not with all of its bits.

    Args:
        file: The open file.
        image: What Pillow has made of it; None where it cannot identify it.
    """
    if image is not None:
        return has_lost_bits(image)
    file.seek(0)
    return file.read(4) in _BEGINNINGS


def read_tiff(file: IO[bytes], name: str, bit_depth: BitDepth | None) -> Image.Image:
    """Reads the first image of a TIFF, with its orientation still to be followed.

    Args:
        file: The open file.
        name: What messages call it.
        bit_depth: How many bits are used; None for the first channel as floats, whatever they are.

    Raises:
        ValueError: tifffile is not installed or cannot read it, it has more than four channels or
            more pixels than Pillow's limit, or its values are larger than the bits allow.
    """
    with _first_page(file, name) as page:
        pixels = _pixels(page, name)
        tag = page.tags.get(int(Base.Orientation))
    image = _image(pixels, name, bit_depth)
    if tag is not None:
        image.getexif()[Base.Orientation] = int(tag.value)
    return image


def tiff_size(file: IO[bytes], name: str) -> tuple[int, int]:
    """Returns width and height as stored.

    Raises:
        ValueError: tifffile is not installed.
    """
    with _first_page(file, name) as page:
        return page.imagewidth, page.imagelength


@contextmanager
def _first_page(file: IO[bytes], name: str) -> Iterator[Any]:
    try:
        tifffile = require("tifffile", "demo", f"{name}, a TIFF that Pillow cannot read,")
    except MissingExtraError as error:
        raise ValueError(str(error)) from error
    file.seek(0)
    with tifffile.TiffFile(file) as opened:
        yield opened.pages[0]


def _pixels(page: Any, name: str) -> np.ndarray:
    """Returns [H, W, C]."""
    height, width, limit = page.imagelength, page.imagewidth, Image.MAX_IMAGE_PIXELS
    if limit is not None and height * width > 2 * limit:  # where Pillow raises too
        raise ValueError(f"{name} has {height * width} pixels, more than the limit of {2 * limit}")
    if page.axes not in ("YX", "YXS", "SYX") or page.samplesperpixel > _MOST_CHANNELS:
        raise ValueError(
            f"an image has 1 to {_MOST_CHANNELS} channels, got axes {page.axes} of shape "
            f"{page.shape} in {name}; save the channels that are meant"
        )
    pixels = np.asarray(page.asarray())
    if pixels.ndim == 2:
        return pixels[..., None]
    return np.moveaxis(pixels, 0, -1) if page.axes == "SYX" else pixels


def _image(pixels: np.ndarray, name: str, bit_depth: BitDepth | None) -> Image.Image:
    if bit_depth is None:
        return Image.fromarray(pixels[..., 0].astype(np.float32))
    if pixels.dtype != np.uint8:
        pixels = numbers_to_eight_bits(pixels, name, bit_depth)
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
