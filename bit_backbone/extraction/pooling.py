"""From feature maps to one vector per image."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

GEM_POWER = 3.0  # where training starts it, Radenovic et al. 2018, section 3.2
GEM_FLOOR = 1e-6


def average(features: Tensor) -> Tensor:
    """Returns the mean over pixels, [N, C], of [N, C, H, W]."""
    return features.mean(dim=(2, 3))


def maximum(features: Tensor) -> Tensor:
    """Returns the largest value of each channel, [N, C], of [N, C, H, W]."""
    return features.amax(dim=(2, 3))


def generalized_mean(features: Tensor) -> Tensor:
    """Returns the generalized mean (GeM) over pixels, [N, C], of [N, C, H, W].

    ``(mean(x ** 3)) ** (1 / 3)`` of values raised to at least 1e-6 (Radenovic et al., "Fine-tuning
    CNN Image Retrieval with No Human Annotation", 2018, arXiv 1711.02512). It is made for maps
    after a ReLU: of ``feature_norm="none"``, which are signed, it sees only the positive part.
    """
    powers = features.clamp(min=GEM_FLOOR).double().pow(GEM_POWER)
    return powers.mean(dim=(2, 3)).pow(1 / GEM_POWER).to(features.dtype)


POOLINGS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "avg": average,
    "max": maximum,
    "gem": generalized_mean,
}
