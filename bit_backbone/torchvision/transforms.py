"""The preprocessing of the published classifiers, in the form of torchvision's weight presets."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms._presets import ImageClassification

from bit_backbone.preprocessing import PRESETS
from bit_backbone.torchvision import defaults

__all__ = ["BitClassification", "classification_transforms"]

_INTERPOLATION = {
    Image.Resampling.BILINEAR: InterpolationMode.BILINEAR,
    Image.Resampling.BICUBIC: InterpolationMode.BICUBIC,
}


class BitClassification(ImageClassification):
    """torchvision's classification preset, which can also resize without regard to the aspect.

    Args:
        crop_size: Side of the central square.
        resize_size: [n] for the shorter side, or [height, width].
        interpolation: How to resize; with antialiasing.
    """

    def __init__(
        self, *, crop_size: int, resize_size: list[int], interpolation: InterpolationMode
    ) -> None:
        statistics = (defaults.PIXEL_MEAN,) * 3
        super().__init__(
            crop_size=crop_size, mean=statistics, std=statistics, interpolation=interpolation
        )
        self.resize_size = list(resize_size)


def classification_transforms(preset: str) -> partial[BitClassification]:
    """Returns what makes the transforms of a preset of BitImageProcessor."""
    settings: Mapping[str, Any] = PRESETS[preset]
    size = settings["size"]
    short = size.get("shortest_edge")
    return partial(
        BitClassification,
        crop_size=settings["crop_size"]["height"],
        resize_size=[size["height"], size["width"]] if short is None else [short],
        interpolation=_INTERPOLATION[settings["resample"]],
    )
