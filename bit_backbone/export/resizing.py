"""The resizing of torchvision's detectors, for images of any size and to the same pixel.

torchvision multiplies both sides by a factor in double precision and rounds down, so that a side
that is a whole number may lose one: 49 * (1 / 49) is less than 1. Runtimes have no doubles there
(OpenVINO computes them in float32), so sizes are computed in whole numbers, and a table says which
factors round to less than they are.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from bit_backbone.export.sizes import Size, as_tensor, largest, least, symbol

LONGEST = 8192  # pixels of a side up to which the table knows the factor
DOUBLE = 2.0**53  # a double's fraction has 53 bits


class DetectorPixels(nn.Module):
    """What GeneralizedRCNNTransform does to one image in eval mode.

    Args:
        transform: torchvision's.
    """

    mean: Tensor
    std: Tensor
    short_losses: Tensor
    long_losses: Tensor
    spacings: Tensor

    def __init__(self, transform: Any) -> None:
        super().__init__()
        self.short, self.long = int(transform.min_size[-1]), int(transform.max_size)
        self.fixed = transform.fixed_size
        self.multiple = int(transform.size_divisible)
        for name in ("mean", "std"):
            values = torch.tensor(getattr(transform, f"image_{name}"), dtype=torch.float32)
            self.register_buffer(name, values[:, None, None])
        self.register_buffer("short_losses", _losses(self.short))
        self.register_buffer("long_losses", _losses(self.long))
        self.register_buffer("spacings", _spacings())

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Maps an image [3, H, W] in 0..1 to a canvas and the size of the image in it.

        Returns:
            [1, 3, h, w], normalised and filled up with zeros to a multiple of the stride, and
            float32 [2], height and width before the filling.
        """
        height, width = image.shape[-2], image.shape[-1]
        rows, columns, size = self._target(height, width)
        x = (image - self.mean) / self.std
        x = _resize_last(x.transpose(1, 2), height, size[0], self._filled(rows))
        x = _resize_last(x.transpose(1, 2), width, size[1], self._filled(columns))
        return x[None], size

    def _filled(self, side: Size) -> Size:
        return symbol((side + self.multiple - 1) // self.multiple) * self.multiple

    def _target(self, height: Size, width: Size) -> tuple[Size, Size, Tensor]:
        """Returns height and width in whole numbers, and both as torchvision rounds them."""
        if self.fixed is not None:  # which is (width, height)
            rows, columns = int(self.fixed[1]), int(self.fixed[0])
            return rows, columns, torch.tensor([rows, columns], dtype=torch.float32)
        short, long = least(height, width), largest(height, width)
        rows = least(height * self.short // short, height * self.long // long)
        columns = least(width * self.short // short, width * self.long // long)
        lost = [self._lost(side, short, long) for side in (height, width)]
        exact = torch.stack([as_tensor(side, self.mean) for side in (rows, columns)])
        return rows, columns, exact - torch.stack(lost)

    def _lost(self, side: Size, short: Size, long: Size) -> Tensor:
        """Returns the pixel, 1 or 0, that a side loses in double precision."""
        whole = torch.zeros((), dtype=torch.int64)
        a, b, s = (as_tensor(value, whole) for value in (short, long, side))
        by_short = self.short * b <= self.long * a
        numerator = torch.where(by_short, self.short, self.long)
        denominator = torch.where(by_short, a, b)
        index = denominator.clamp(max=LONGEST)
        loss = torch.where(by_short, self.short_losses[index], self.long_losses[index])
        product = s * numerator
        quotient = torch.div(product, denominator, rounding_mode="floor")
        divides = quotient * denominator == product
        spacing = self.spacings[quotient.clamp(max=LONGEST)]
        return (divides & (loss * quotient.to(torch.float32) > spacing)).to(torch.float32)


def _losses(numerator: int) -> Tensor:
    """Returns by how much each numerator / n is less in double precision, relative, times 2**53."""
    losses = [0.0]
    for n in range(1, LONGEST):
        exact = Fraction(numerator, n)
        losses.append(max(0.0, float((exact - Fraction(numerator / n)) / exact) * DOUBLE))
    return torch.tensor([*losses, 0.0], dtype=torch.float32)


def _spacings() -> Tensor:
    """Returns half the distance from each whole number down to the next double, times 2**53."""
    halves = [(q - math.nextafter(q, 0)) / 2 * DOUBLE for q in range(LONGEST + 1)]
    return torch.tensor(halves, dtype=torch.float32)


def _resize_last(x: Tensor, source: Size, target: Tensor, filled: Size) -> Tensor:
    """Resizes [3, rows, n] along the last axis as ``interpolate`` does, and fills it with zeros.

    Args:
        x: What to resize.
        source: Its last axis.
        target: float32 [], the size to resize to.
        filled: The size to fill up to.
    """
    positions = torch.arange(filled).to(torch.float32)
    scale = as_tensor(source, target) / target
    points = (scale * (positions + 0.5) - 0.5).clamp(min=0)
    before = points.floor()
    share = points - before
    last = source - 1
    lower = least_index(before.to(torch.int64), last)
    upper = least_index(lower + 1, last)
    resized = x[..., lower] * (1 - share) + x[..., upper] * share
    return torch.where(positions < target, resized, 0.0)


def least_index(index: Tensor, last: Size) -> Tensor:
    """Returns indices that do not exceed ``last``."""
    return torch.minimum(index, as_tensor(last, index))
