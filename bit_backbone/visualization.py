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
        count: Components to keep; missing ones (C or H * W - 1 smaller) are zeros.

    Returns:
        [count, H, W], float32, in order of variance. The sign of each component, which is
        arbitrary, is chosen so that its value of largest magnitude is positive. The cost is that
        of the eigenvectors of a square matrix of side min(C, H * W).

    Raises:
        ValueError: ``feature`` has another rank or holds values that are not finite.
    """
    if feature.ndim != 3:
        raise ValueError(f"a feature map must be [C, H, W], got {list(feature.shape)}")
    if not feature.isfinite().all():
        raise ValueError("a feature map must be finite, got NaN or infinity; check the weights")
    _, height, width = feature.shape
    pixels = feature.detach().float().flatten(1)
    components = _project(pixels - pixels.mean(dim=1, keepdim=True), count)
    peaks = components.gather(1, components.abs().argmax(dim=1, keepdim=True))
    missing = components.new_zeros(count - len(components), height * width)
    return torch.cat([components * peaks.sign(), missing]).view(count, height, width)


def _project(centred: Tensor, count: int) -> Tensor:
    """Returns the (at most ``count``) components [K, P] of centred pixels [C, P], of any sign."""
    channels, pixels = centred.shape
    kept = min(count, channels, pixels - 1)  # centring takes one dimension
    if channels <= pixels:
        _, weights = torch.linalg.eigh(centred @ centred.T)
        return weights.flip(1)[:, :kept].T @ centred
    # The P x P Gram matrix has the same eigenvalues, and the components as eigenvectors of length
    # one. Their true length, sqrt(eigenvalue), is more accurate as the norm of a projection.
    _, directions = torch.linalg.eigh(centred.T @ centred)
    directions = directions.flip(1)[:, :kept]
    return (directions * (centred @ directions).norm(dim=0)).T


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
