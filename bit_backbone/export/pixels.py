"""Preprocessing inside an exported file: uint8 [H, W, 3] in, what the network takes out.

Resizing follows Pillow: a filter as wide as the reduction, rows after columns, 8 bits after each,
and its fixed-point arithmetic, so that values in the middle of two levels fall to the same side.
Pillow 13 resizes the rows first where the height shrinks by more than twice what the width does;
of such images a quarter of the values may be the neighbouring one of the 256 levels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from PIL.Image import Resampling
from torch import Tensor, nn

from bit_backbone.export.sizes import Size, largest, least
from bit_backbone.preprocessing import BitImageProcessor

LEVELS = 255.0
# Pillow's weights have 22 bits after the point. Each is split into two halves of 11 bits, because
# float32 adds products of 8 and 11 bits without rounding, in every runtime and in any order.
_HALF = 2**11
_DIGIT, _LAST = 2**6, 2**5  # factors of the lower half
_CUBIC = -0.5  # Pillow's; PyTorch's is -0.75
_FILTERS = (Resampling.BILINEAR, Resampling.BICUBIC)


class ScaledPixels(nn.Module):
    """uint8 [H, W, 3] to [1, 3, H, W] in 0..1."""

    def forward(self, image: Tensor) -> Tensor:
        """Scales."""
        return (image.permute(2, 0, 1).to(torch.float32) / LEVELS)[None]


class Pixels(nn.Module):
    """What a BitImageProcessor does to an 8-bit RGB image.

    Args:
        processor: Resizes by bilinear or bicubic filter to a height and width or by the shorter
            side, crops, rescales and normalises, each where it is switched on.

    Raises:
        ValueError: It does something else.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, processor: BitImageProcessor) -> None:
        super().__init__()
        _check(processor)
        self.size = dict(processor.size) if processor.do_resize else None
        self.crop = dict(processor.crop_size) if processor.do_center_crop else None
        self.rounds_down = processor.crop_rounding == "down"
        self.filter = processor.resample
        self.factor = processor.rescale_factor if processor.do_rescale else None
        statistics = (processor.image_mean, processor.image_std)
        if not processor.do_normalize:
            statistics = (0.0, 1.0)
        for name, values in zip(("mean", "std"), statistics, strict=True):
            numbers = list(values) if isinstance(values, Sequence) else [values] * 3
            self.register_buffer(name, torch.tensor(numbers)[:, None, None])

    def forward(self, image: Tensor) -> Tensor:
        """Maps uint8 [H, W, 3] to float32 [1, 3, height, width]."""
        x = image.permute(2, 0, 1).to(torch.float32)
        height, width = self._targets(image.shape[0], image.shape[1])
        x = self._resample(x, width, "width")
        x = self._resample(x.transpose(1, 2), height, "height").transpose(1, 2)
        if self.factor is not None:
            exact = abs(self.factor * LEVELS - 1) < 1e-12
            x = x / LEVELS if exact else x * self.factor
        return ((x - self.mean) / self.std)[None]

    def _targets(self, height: Size, width: Size) -> tuple[Size, Size]:
        """Returns the size after resizing, before the crop."""
        if self.size is None:
            return height, width
        if "height" in self.size:
            return self.size["height"], self.size["width"]
        short, edge = least(height, width), self.size["shortest_edge"]
        # of the shorter side: edge itself; as pixels.target_size rounds the longer one
        return largest(edge * height // short, 1), largest(edge * width // short, 1)

    def _resample(self, x: Tensor, target: Size, side: str) -> Tensor:
        """Resizes and crops [3, rows, n] along the last axis."""
        count = x.shape[-1]
        if self.size is None and self.crop is None:
            return x
        positions = torch.arange(target if self.crop is None else self.crop[side])
        if self.crop is not None:
            positions = positions + self._first(target, self.crop[side])
        if self.size is None:
            weights = (positions[:, None] == torch.arange(count)[None]).to(torch.float32)
            return x @ weights.T
        return resampled(x, positions, target, self.filter)

    def _first(self, target: Size, crop: int) -> Size:
        """Returns where the crop begins, which is negative where there is too little to cut."""
        margin = target - crop
        if self.rounds_down:
            return margin // 2
        # torchvision pads too small images first, the odd row at the end; else it rounds to even
        cut = largest(margin, 0)
        half = cut // 2 + (cut % 4) // 3
        lacking = largest(-margin, 0)
        return half - lacking // 2


def resampled(x: Tensor, positions: Tensor, target: Size, resample: Resampling) -> Tensor:
    """Resizes along the last axis as Pillow does, 8 bits in and out.

    Args:
        x: float32 [.., n] of whole numbers in 0..255.
        positions: int64, which of the values after resizing to return; those outside are 0.
        target: Number of values after resizing.
        resample: Bilinear or bicubic.
    """
    count = x.shape[-1]
    halves = _bilinear if resample == Resampling.BILINEAR else _bicubic
    high, low = (half.to(torch.float32) for half in halves(positions, count, target))
    carry = ((x @ low.T) / _HALF).floor()
    values = ((x @ high.T + carry) / _HALF + 0.5).floor().clamp(0, LEVELS)
    return torch.where((positions >= 0) & (positions < target), values, 0.0)


def _distances(positions: Tensor, count: Size, target: Size) -> tuple[Tensor, Size]:
    """Returns how far positions are from ``count`` values, [positions, count], and the unit."""
    sources = torch.arange(count)
    distance = (2 * positions[:, None] + 1) * count - (2 * sources[None] + 1) * target
    return distance.abs(), 2 * largest(count, target)


def _bilinear(positions: Tensor, count: Size, target: Size) -> tuple[Tensor, Tensor]:
    """Returns both halves of the weights, [positions, count], in long division of whole numbers.

    For OpenVINO, which computes doubles in float32 and whole numbers in 32 bits.
    """
    distance, unit = _distances(positions, count, target)
    parts = (unit - distance).clamp(min=0)
    total = parts.sum(1, keepdim=True).clamp(min=1)
    high = parts * _HALF // total
    rest = parts * _HALF - high * total
    digit = rest * _DIGIT // total
    rest = rest * _DIGIT - digit * total
    return high, digit * _LAST + (2 * rest * _LAST + total) // (2 * total)


def _bicubic(positions: Tensor, count: Size, target: Size) -> tuple[Tensor, Tensor]:
    """Returns both halves of the weights, [positions, count]."""
    distance, unit = _distances(positions, count, target)
    x = distance.to(torch.float64) / unit
    a = _CUBIC
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    weights = torch.where(x < 1, near, torch.where(x < 2, far, 0.0))
    weights = (weights / weights.sum(1, keepdim=True) * _HALF**2).round()
    high = (weights / _HALF).floor()
    return high, weights - high * _HALF


def resize_columns_first(
    image: Image.Image, height: int, width: int, resample: Resampling
) -> Image.Image:
    """Resizes with Pillow in the order of a file, whichever this version of Pillow has."""
    columns = image.resize((width, image.height), resample)
    return columns.resize((width, height), resample)


def _check(processor: BitImageProcessor) -> None:
    """Raises ValueError where a graph cannot do what a processor does."""
    problem = None
    if processor.do_resize and processor.resample not in _FILTERS:
        problem = f"resample {processor.resample.name.lower()}"
    elif processor.do_resize and set(processor.size) not in (
        {"height", "width"},
        {"shortest_edge"},
    ):
        problem = f"size {processor.size}"
    elif processor.do_pad:
        problem = "do_pad"
    if problem is not None:
        raise ValueError(
            "preprocessing in an exported file resizes by bilinear or bicubic to a height and "
            f"width or by the shorter side, and does not pad; the model's has {problem}: export "
            "without preprocessing, and let BitImageProcessor do it"
        )
