"""The arguments of ``BitImageProcessor``: their types and their normal form."""

import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from types import MappingProxyType
from typing import Any, TypeAlias, TypedDict

import torch
from PIL import Image

from bit_backbone.preprocessing.deep import AUTO, BitDepth

SizeLike: TypeAlias = int | Sequence[int] | Mapping[str, int]
DeviceLike: TypeAlias = int | str | torch.device


class Settings(TypedDict, total=False):
    """The arguments of ``BitImageProcessor``; in a call, None means the processor's own value."""

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
    do_pad: bool | None
    pad_size: SizeLike | None
    default_to_square: bool | None
    return_tensors: str | None
    data_format: str | None
    input_data_format: str | None
    device: DeviceLike | None
    disable_grouping: bool | None
    image_seq_length: int | None
    crop_rounding: str | None
    bit_depth: BitDepth | None


_HEIGHT_WIDTH = {"{'height': h, 'width': w}": {"height", "width"}}
_FORMS: dict[str, dict[str, set[str]]] = {
    "crop_size": _HEIGHT_WIDTH,
    "pad_size": _HEIGHT_WIDTH,
    "size": {
        "{'shortest_edge': n}": {"shortest_edge"},
        "{'shortest_edge': n, 'longest_edge': m}": {"shortest_edge", "longest_edge"},
        "{'max_height': h, 'max_width': w}": {"max_height", "max_width"},
        **_HEIGHT_WIDTH,
    },
}
# Those that torchvision has too; Pillow 13 has more.
_FILTERS = tuple(
    Image.Resampling[name]
    for name in ("NEAREST", "LANCZOS", "BILINEAR", "BICUBIC", "BOX", "HAMMING")
)
CROP_ROUNDINGS = ("down", "even")
NAMES = tuple(Settings.__annotations__)
PLAIN: Settings = {"return_tensors": "pt", "data_format": "channels_first", "device": "cpu"}
"""What code asks for that is handed a processor, whatever that one returns by default."""
# Of these, a file or a repr holds only what differs from it.
DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        "do_pad": False,
        "pad_size": None,
        "default_to_square": False,
        "return_tensors": None,
        "data_format": "channels_first",
        "input_data_format": None,
        "device": None,
        "disable_grouping": None,
        "image_seq_length": None,
        "crop_rounding": "down",
        "bit_depth": AUTO,
    }
)


def parse_flag(name: str, value: Any) -> bool:
    """Returns ``value`` if it is a bool, else raises ValueError."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, got {value!r}")
    return value


def parse_choice(name: str, value: str | None, choices: tuple[str | None, ...]) -> str | None:
    """Returns the choice that ``value`` is equal to, else raises ValueError."""
    # transformers' enumerations are strings that are equal to, but do not hash as, their values
    for choice in choices:
        if value == choice:
            return choice
    raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def parse_count(name: str, value: int | None) -> int | None:
    """Returns a whole number of at least 0, or None, else raises ValueError."""
    if value is not None and (not isinstance(value, Integral) or value < 0):
        raise ValueError(f"{name} must be a whole number of at least 0, got {value!r}")
    return None if value is None else int(value)


def parse_device(device: DeviceLike | None) -> torch.device | None:
    """Returns the device of that name or number; None for none."""
    if device is None:
        return None
    try:
        return torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"device must be a torch.device, the name of one, such as 'cuda:0', or its number, "
            f"got {device!r}"
        ) from error


def parse_size(size: SizeLike, square: bool = False) -> dict[str, int]:
    """Returns one of the forms of ``size``; an int is the shorter edge, or a square's side."""
    if square:
        return parse_square("size", size)
    return _parse_size("size", {"shortest_edge": size} if isinstance(size, Integral) else size)


def parse_square(name: str, size: SizeLike) -> dict[str, int]:
    """Returns one of the forms of ``name``; an int is the side of a square."""
    return _parse_size(name, (size, size) if isinstance(size, Integral) else size)


def _parse_size(name: str, size: Any) -> dict[str, int]:
    if isinstance(size, Sequence) and not isinstance(size, str) and len(size) == 2:
        size = dict(zip(("height", "width"), size, strict=True))
    forms = _FORMS[name]
    if not isinstance(size, Mapping) or set(size) not in forms.values():
        raise ValueError(f"{name} must be an int, (h, w) or {' or '.join(forms)}, got {size!r}")
    for edge, length in size.items():
        if not isinstance(length, Integral) or isinstance(length, bool) or length < 1:
            raise ValueError(f"{name} must be in whole pixels, at least 1, got {edge} = {length!r}")
    return {edge: int(length) for edge, length in size.items()}


def parse_resample(resample: int | str) -> Image.Resampling:
    """Returns Pillow's filter of that number or name; torchvision's InterpolationMode has names."""
    name = getattr(resample, "value", resample)
    for filter_ in _FILTERS:
        if filter_.name.lower() == name or filter_.value == name:
            return filter_
    known = ", ".join(f"{filter_.name.lower()} ({filter_.value})" for filter_ in _FILTERS)
    raise ValueError(f"resample must be one of {known}, got {resample!r}")


def parse_factor(factor: float) -> float:
    """Returns a positive finite factor, else raises ValueError."""
    if not _is_number(factor) or factor <= 0:
        raise ValueError(f"rescale_factor must be a positive number, such as 1/255, got {factor!r}")
    return float(factor)


def parse_statistics(name: str, values: float | Sequence[float]) -> float | tuple[float, ...]:
    """Returns a number, or a non-empty tuple of numbers; ``image_std`` is positive."""
    listed = list(values) if isinstance(values, Sequence) else [values]
    if not listed or not all(_is_number(value) for value in listed):
        raise ValueError(f"{name} must be a number, or one per channel, got {values!r}")
    if name == "image_std" and min(listed) <= 0:
        raise ValueError(f"image_std must be positive in every channel, got {values!r}")
    numbers = tuple(float(value) for value in listed)
    return numbers if isinstance(values, Sequence) else numbers[0]


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
