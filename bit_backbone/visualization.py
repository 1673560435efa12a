"""Feature maps as pictures."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

__all__ = ["beside", "principal_components", "to_picture"]

# Percentiles that become black and white: a few extreme pixels must not grey out the rest.
LOW, HIGH = 0.01, 0.99


def principal_components(feature: Tensor, count: int = 3) -> Tensor:
    """Projects a feature map on its own first principal components.

    Args:
        feature: [C, H, W].
        count: Components to keep; missing ones (C or H * W smaller) are zeros.

    Returns:
        [count, H, W], float32, in order of variance. The sign of each component, which is
        arbitrary, is chosen so that its largest weight is positive.

    Raises:
        ValueError: ``feature`` has another rank or holds values that are not finite.
    """
    if feature.ndim != 3:
        raise ValueError(f"a feature map must be [C, H, W], got {list(feature.shape)}")
    if not feature.isfinite().all():
        raise ValueError("a feature map must be finite, got NaN or infinity; check the weights")
    channels, height, width = feature.shape
    pixels = feature.detach().float().flatten(1)
    centred = pixels - pixels.mean(dim=1, keepdim=True)
    # eigenvectors of the C x C covariance: far smaller than the map itself
    _, vectors = torch.linalg.eigh(centred @ centred.T)
    vectors = vectors.flip(1)[:, : min(count, channels)]
    peaks = vectors.gather(0, vectors.abs().argmax(dim=0, keepdim=True))
    components = (vectors * peaks.sign()).T @ centred
    missing = count - len(components)
    return torch.cat([components, components.new_zeros(missing, height * width)]).view(
        count, height, width
    )


def to_picture(feature: Tensor, size: tuple[int, int]) -> Image.Image:
    """Draws a feature map: its first three principal components as red, green and blue.

    Args:
        feature: [C, H, W].
        size: (height, width) of the picture; feature pixels stay visible as squares.

    Raises:
        ValueError: As ``principal_components``.
    """
    components = principal_components(feature)
    flat = components.flatten(1)
    low, high = (torch.quantile(_sample(flat), q, dim=1).view(3, 1, 1) for q in (LOW, HIGH))
    scaled = (components - low) / (high - low).clamp(min=torch.finfo(torch.float32).tiny)
    pixels = (scaled.clamp(0, 1) * 255).round().byte().permute(1, 2, 0)
    height, width = size
    return Image.fromarray(pixels.numpy(), "RGB").resize((width, height), Image.Resampling.NEAREST)


def _sample(flat: Tensor, most: int = 1_000_000) -> Tensor:
    """Thins columns evenly: torch.quantile refuses more than 16 million values."""
    return flat[:, :: max(1, flat.shape[1] // most)]


def beside(*pictures: Image.Image) -> Image.Image:
    """Puts pictures of one height in a row."""
    row = Image.new("RGB", (sum(p.width for p in pictures), pictures[0].height))
    left = 0
    for picture in pictures:
        row.paste(picture, (left, 0))
        left += picture.width
    return row
