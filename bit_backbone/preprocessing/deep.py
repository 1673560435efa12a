"""Images of more than 8 bits per channel, as microscopes and thermal cameras make, brought to 8.

Pillow reads grey ones with all of their bits, and of colours the upper byte only. The lower one it
gives when it is given the other order of bytes.
"""

from __future__ import annotations

import logging
import mmap
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from bit_backbone.utils.processes import is_first_process
from bit_backbone.utils.ways_out import after, passing

BitDepth: TypeAlias = int | str
"""How many bits of a value are used, from 1 to 32, or "auto" for all that its type has."""

AUTO = "auto"
MOST_BITS = 32
_GREY = ("I;16", "I;16L", "I;16B", "I;16N")
_FLOAT, _INTEGER = "F", "I"
_SIXTEEN = ";16"
# Formats whose grey images Pillow calls "I" though they have 16 bits.
_OF_SIXTEEN = ("PNG", "PPM")
_BITS_PER_SAMPLE = 258  # TIFF's tag
_OTHER_ORDER = {"L": "B", "B": "L", "N": "B" if np.little_endian else "L"}
_LOGGER = logging.getLogger(__name__)
# Shared by the workers that a command forks: whoever meets the first such image says so.
_REPORTED = mmap.mmap(-1, 1)

Open: TypeAlias = Callable[[], Image.Image]
Turn: TypeAlias = Callable[[Image.Image], Image.Image]


def check_depth(value: BitDepth) -> BitDepth:
    """Returns a bit depth if it is one, else raises ValueError."""
    is_count = isinstance(value, int) and not isinstance(value, bool)
    if value != AUTO and not (is_count and 1 <= int(value) <= MOST_BITS):
        raise ValueError(f'bit_depth must be "auto" or a whole number from 1 to 32, got {value!r}')
    return value


def is_deep(image: Image.Image) -> bool:
    """Whether an image, opened and not yet decoded, has more than 8 bits per channel."""
    return (
        image.mode in (*_GREY, _FLOAT, _INTEGER)
        or _SIXTEEN in _raw_mode(image)
        or has_lost_bits(image)
    )


def has_lost_bits(image: Image.Image) -> bool:
    """Whether a TIFF has 16 bits in planes, one after the other, which Pillow reads as 8."""
    bits: Any = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, ())
    is_eight = image.mode in ("RGB", "RGBA", "L", "LA") and _SIXTEEN not in _raw_mode(image)
    return is_eight and isinstance(bits, tuple) and any(count > 8 for count in bits)


def to_eight_bits(
    image: Image.Image, turned: Turn, opened: Open | None, name: str, bit_depth: BitDepth
) -> Image.Image:
    """Returns a deep image with 8 bits per channel.

    Values are divided by the largest that there can be: of a type of 16 bits 65535, of floats 1;
    with a number of bits, by 2 to the power of it, less 1.

    Args:
        image: The image, not yet decoded.
        turned: Decodes an image, in the orientation that is wanted.
        opened: Opens it once more, for the lower bytes of its colours; None where it is in memory.
        name: What messages call it.
        bit_depth: How many bits are used.

    Raises:
        ValueError: Values are larger than the bits allow or not finite, or it cannot be known how
            many bits there are.
    """
    if image.mode in (*_GREY, _FLOAT, _INTEGER):
        values = np.asarray(turned(image))
        fixed = 16 if image.mode == _INTEGER and image.format == "PPM" else None
        largest = _largest(image, bit_depth if fixed is None else fixed)
    elif opened is None or not _is_swappable(image):
        return _by_upper_bytes(image, turned, name, bit_depth)
    else:
        upper = np.asarray(turned(image), np.uint16)
        values = upper << 8 | np.asarray(turned(_swapped(opened())))
        largest = _largest(image, bit_depth)
    return Image.fromarray(_scale(values, largest, name, bit_depth))


def numbers_to_eight_bits(values: np.ndarray, name: str, bit_depth: BitDepth) -> np.ndarray:
    """Returns numbers of another type than uint8 scaled to it, as ``to_eight_bits`` does.

    Raises:
        ValueError: They are larger than the bits allow or not finite, or it cannot be known how
            many bits there are, as there are more than 16.
    """
    if values.dtype.kind not in "uif":
        raise ValueError(f"pixels must be integers or floating point, got {values.dtype} in {name}")
    if bit_depth == AUTO and values.dtype.kind != "f" and values.dtype != np.uint16:
        raise _unknown_depth(str(values.dtype))
    is_float = bit_depth == AUTO and values.dtype.kind == "f"
    largest = 1.0 if is_float else _white(bit_depth)
    return _scale(values, largest, name, bit_depth)


def _raw_mode(image: Image.Image) -> str:
    """Returns how the bytes of a file are to be understood, "" where there is no file."""
    tiles = getattr(image, "tile", None)
    arguments: Any = tiles[0][3] if tiles else ""
    if isinstance(arguments, tuple):
        arguments = arguments[0] if arguments else ""
    return arguments if isinstance(arguments, str) else ""


def _is_swappable(image: Image.Image) -> bool:
    return _raw_mode(image)[:-1] in ("RGB;16", "RGBA;16")


def _swapped(image: Image.Image) -> Image.Image:
    """Makes Pillow read the lower bytes in the place of the upper ones."""
    raw = _raw_mode(image)
    other = raw[:-1] + _OTHER_ORDER[raw[-1]]
    source: Any = image  # which has tiles, as an image in memory has not
    source.tile = [_with_mode(tile, other) for tile in source.tile]
    return image


def _with_mode(tile: Any, raw: str) -> Any:
    codec, extents, offset, arguments = tile
    arguments = raw if isinstance(arguments, str) else (raw, *arguments[1:])
    is_named = hasattr(tile, "_make")  # since Pillow 11
    return tile._make((codec, extents, offset, arguments)) if is_named else (
        codec, extents, offset, arguments
    )  # fmt: skip


def _by_upper_bytes(
    image: Image.Image, turned: Turn, name: str, bit_depth: BitDepth
) -> Image.Image:
    """Decodes what Pillow gives only the upper bytes of, such as grey with transparency."""
    if bit_depth not in (AUTO, 16):
        raise ValueError(
            f"{name} has 16 bits in an order that cannot be read with all of them; save it without "
            "transparency"
        )
    return turned(image)


def _largest(image: Image.Image, bit_depth: BitDepth) -> float:
    """Returns the value that white has."""
    if bit_depth == AUTO and image.mode == _FLOAT:
        return 1.0
    if bit_depth == AUTO and image.mode == _INTEGER and image.format not in _OF_SIXTEEN:
        raise _unknown_depth("32 bits")
    return _white(bit_depth)


def _white(bit_depth: BitDepth) -> float:
    """Returns the largest number of so many bits; "auto" is 16."""
    return float(2 ** (16 if bit_depth == AUTO else int(bit_depth)) - 1)


def _unknown_depth(got: str) -> ValueError:
    return ValueError(
        "images have 8 or 16 bits per channel or are floats in [0, 1], "
        f"got {got}, of which some will not be used"
        + after(": ", passing("bit_depth", 16, "if 16 are"))
    )


def _scale(values: np.ndarray, largest: float, name: str, bit_depth: BitDepth) -> np.ndarray:
    low, high = float(values.min(initial=0)), float(values.max(initial=0))
    if not (low >= 0 and high <= largest):  # written so that NaN fails
        what = "floats lie in [0, 1]" if bit_depth == AUTO else f"{bit_depth} bits are at most"
        limit = "" if bit_depth == AUTO else f" {largest:g}"
        bits = int(high).bit_length() if 1 < high < 2**MOST_BITS else 0
        way_out = after("; ", passing("bit_depth", bits)) if bits else ""
        raise ValueError(f"{what}{limit}, got [{low:g}, {high:g}] in {name}{way_out}")
    _report(name, values, largest)
    return np.rint(values.astype(np.float64) * (255 / largest)).astype(np.uint8)


def _report(name: str, values: np.ndarray, largest: float) -> None:
    """Says once in a command that there are such images, and what was made of the first."""
    if _REPORTED[0] or not is_first_process():
        return
    _REPORTED[0] = 1
    kind = "floating-point images" if values.dtype.kind == "f" else "images of more than 8 bits"
    way_out = after("; ", passing("bit_depth", 12, "if white is 4095, and so on"))
    _LOGGER.warning(
        "%s are scaled to 8 bits, %g being white: the largest value of the first, %s, is %g%s",
        *(kind, largest, name, float(values.max(initial=0)), way_out),
    )
