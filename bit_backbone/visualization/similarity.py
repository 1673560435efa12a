"""How much the pixels of feature maps resemble each other: cosine similarity."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

UNCLIPPED = 0.99  # part of a map's pixels that colours tell apart; the pixel itself is far above


@dataclass(frozen=True)
class UnitMap:
    """A feature map as directions: all that cosine similarity needs, computed once.

    Attributes:
        units: [C, H * W] float32, each pixel's vector divided by its length; zeros stay zeros.
        lengths: [H * W], which the vectors had.
        height: Of the map.
        width: Of the map.
    """

    units: Tensor
    lengths: Tensor
    height: int
    width: int

    @classmethod
    def of(cls, feature: Tensor) -> UnitMap:
        """Takes a feature map [C, H, W].

        Raises:
            ValueError: It has another rank or holds values that are not finite.
        """
        if feature.ndim != 3:
            raise ValueError(f"a feature map must be [C, H, W], got {list(feature.shape)}")
        if not feature.isfinite().all():
            raise ValueError("a feature map must be finite, got NaN or infinity; check the weights")
        _, height, width = feature.shape
        pixels = feature.detach().float().flatten(1)
        lengths = pixels.norm(dim=0)
        units = pixels / lengths.clamp(min=torch.finfo(torch.float32).tiny)
        # channel by channel, in which order a product takes a third of the time
        return cls(units.contiguous(), lengths, height, width)

    @property
    def channels(self) -> int:
        """Of the feature map."""
        return self.units.shape[0]

    def index(self, x: float, y: float) -> int:
        """Returns which pixel of the map holds a place of the image.

        Args:
            x: From 0, the image's left edge, to 1, its right one.
            y: From 0, the upper edge, to 1.

        Raises:
            ValueError: The place lies outside of the image.
        """
        if not (0 <= x <= 1 and 0 <= y <= 1):
            raise ValueError(f"a place of an image lies in 0..1 by 0..1, got ({x}, {y})")
        column = min(int(x * self.width), self.width - 1)
        return min(int(y * self.height), self.height - 1) * self.width + column

    def similarity(self, direction: Tensor) -> Tensor:
        """Returns the cosine similarity, [H, W] in -1..1, of every pixel to a direction [C]."""
        return (direction @ self.units).clamp(-1, 1).view(self.height, self.width)

    def similarity_to(self, x: float, y: float) -> Tensor:
        """Returns the cosine similarity of every pixel to the one at a place of the image."""
        return self.similarity(self.direction(x, y))

    def direction(self, x: float, y: float) -> Tensor:
        """Returns the direction [C] of the pixel at a place of the image."""
        return self.units[:, self.index(x, y)].contiguous()

    def strongest(self, x: float, y: float, count: int) -> list[tuple[int, float]]:
        """Returns the channels with the largest response at a place, and their values.

        Args:
            x: As in ``index``.
            y: Likewise.
            count: How many; all where the map has fewer.
        """
        index = self.index(x, y)
        values = self.units[:, index] * self.lengths[index]
        best = values.topk(min(count, len(values)))
        return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))


def contrast(similarity: Tensor) -> tuple[float, float]:
    """Returns the values, least and largest, between which a map [H, W] has its colours."""
    flat = similarity.flatten()
    low, high = float(flat.min()), float(flat.kthvalue(1 + int((len(flat) - 1) * UNCLIPPED)).values)
    return low, high if high > low else 1.0


def best_place(similarity: Tensor) -> tuple[float, float]:
    """Returns the place (x, y in 0..1) of a map's [H, W] largest value: its pixel's centre."""
    height, width = similarity.shape
    row, column = divmod(int(similarity.argmax()), width)
    return (column + 0.5) / width, (row + 0.5) / height
