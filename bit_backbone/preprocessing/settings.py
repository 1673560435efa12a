"""The arguments of ``BitImageProcessor``: their kinds, and their one normal form."""

import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any, TypeAlias, TypedDict

from PIL import Image

SizeLike: TypeAlias = int | Sequence[int] | Mapping[str, int]


class Settings(TypedDict, total=False):
    """The arguments of ``BitImageProcessor``; in one call None means the processor's own."""

    do_resize: bool | None
    size: SizeLike | None
    resample: int | str | None
    do_center_crop: bool | None
    crop_size: SizeLike | None
    do_rescale: bool | None
    rescale_factor: float | None
    do_normalize: bool | None
    image_mean: float | Sequence[float] | None
    image_std: float | Sequence[float] | None
    do_convert_rgb: bool | None


_HEIGHT_WIDTH = {"{'height': h, 'width': w}": {"height", "width"}}
_FORMS: dict[str, dict[str, set[str]]] = {
    "crop_size": _HEIGHT_WIDTH,
    "size": {"{'shortest_edge': n}": {"shortest_edge"}} | _HEIGHT_WIDTH,
}
# Those that torchvision has too; Pillow 13 has more.
_FILTERS = tuple(
    Image.Resampling[name]
    for name in ("NEAREST", "LANCZOS", "BILINEAR", "BICUBIC", "BOX", "HAMMING")
)
NAMES = tuple(Settings.__annotations__)


def parse_flag(name: str, value: Any) -> bool:
    """Returns ``value`` if it is a bool, else raises ValueError."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} is True or False, got {value!r}")
    return value


def parse_size(size: SizeLike) -> dict[str, int]:
    """Returns {"shortest_edge": n} for an int, {"height": h, "width": w} for a pair."""
    return _parse_size("size", {"shortest_edge": size} if isinstance(size, Integral) else size)


def parse_crop_size(size: SizeLike) -> dict[str, int]:
    """Returns {"height": h, "width": w}; an int is the side of a square."""
    return _parse_size("crop_size", (size, size) if isinstance(size, Integral) else size)


def _parse_size(name: str, size: Any) -> dict[str, int]:
    if isinstance(size, Sequence) and not isinstance(size, str) and len(size) == 2:
        size = dict(zip(("height", "width"), size, strict=True))
    forms = _FORMS[name]
    if not isinstance(size, Mapping) or set(size) not in forms.values():
        raise ValueError(f"{name} is an int, (h, w) or {' or '.join(forms)}, got {size!r}")
    for edge, length in size.items():
        if not isinstance(length, Integral) or isinstance(length, bool) or length < 1:
            raise ValueError(f"{name} is in whole pixels, at least 1, got {edge} = {length!r}")
    return {edge: int(length) for edge, length in size.items()}


def parse_resample(resample: int | str) -> Image.Resampling:
    """Returns Pillow's filter of that number or name; torchvision's InterpolationMode has names."""
    name = getattr(resample, "value", resample)
    for filter_ in _FILTERS:
        if filter_.name.lower() == name or filter_.value == name:
            return filter_
    known = ", ".join(f"{filter_.name.lower()} ({filter_.value})" for filter_ in _FILTERS)
    raise ValueError(f"resample is one of {known}, got {resample!r}")


def parse_factor(factor: float) -> float:
    """Returns a positive finite factor, else raises ValueError."""
    if not _is_number(factor) or factor <= 0:
        raise ValueError(f"rescale_factor is a positive number, such as 1/255, got {factor!r}")
    return float(factor)


def parse_statistics(name: str, values: float | Sequence[float]) -> float | tuple[float, ...]:
    """Returns a number, or a non-empty tuple of numbers; ``image_std`` is positive."""
    listed = list(values) if isinstance(values, Sequence) else [values]
    if not listed or not all(_is_number(value) for value in listed):
        raise ValueError(f"{name} is a number, or one per channel, got {values!r}")
    if name == "image_std" and min(listed) <= 0:
        raise ValueError(f"image_std is positive in every channel, got {values!r}")
    numbers = tuple(float(value) for value in listed)
    return numbers if isinstance(values, Sequence) else numbers[0]


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
