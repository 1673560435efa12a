"""Draws feature maps as pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

__all__ = [
    "beside",
    "channel_mosaic",
    "norm_histogram",
    "pixel_norms",
    "principal_components",
    "to_picture",
]

# Percentiles that become black and white: a few extreme pixels must not grey out the rest.
LOW, HIGH = 0.01, 0.99

_BINS = 64
_BAR_WIDTH, _PANEL_HEIGHT, _MARGIN = 6, 96, 18  # of a histogram, in pixels
_INK, _PAPER, _BARS = (40, 40, 40), (255, 255, 255), (70, 110, 180)


def principal_components(feature: Tensor, count: int = 3) -> Tensor:
    """Projects a feature map on its own first principal components.

    The cost is that of the eigenvectors of a square matrix of side min(C, H * W).

    Args:
        feature: [C, H, W].
        count: Components to keep; if C or H * W - 1 is smaller, the missing ones are zeros.

    Returns:
        [count, H, W], float32, in order of variance. The sign of a component is arbitrary; it is
        chosen so that the value of largest magnitude is positive.

    Raises:
        ValueError: ``feature`` has another rank, or values that are not finite.
    """
    _check(feature)
    _, height, width = feature.shape
    pixels = feature.detach().float().flatten(1)
    most = height * width - 1  # centring removes one dimension
    components = project(pixels - pixels.mean(dim=1, keepdim=True), min(count, most))
    peaks = components.gather(1, components.abs().argmax(dim=1, keepdim=True))
    missing = components.new_zeros(count - len(components), height * width)
    return torch.cat([components * peaks.sign(), missing]).view(count, height, width)


def _check(feature: Tensor) -> None:
    if feature.ndim != 3:
        raise ValueError(f"a feature map must be [C, H, W], got {list(feature.shape)}")
    if not feature.isfinite().all():
        raise ValueError("a feature map must be finite, got NaN or infinity; check the weights")


def project(vectors: Tensor, count: int) -> Tensor:
    """Projects vectors on the few directions that hold most of their squared length.

    Args:
        vectors: [C, P] float32. Centred vectors give principal components; others give the
            projection that best keeps their inner products.
        count: Directions to keep; fewer if C or P is smaller.

    Returns:
        [K, P], the largest direction first, with arbitrary signs.
    """
    channels, pixels = vectors.shape
    kept = min(count, channels, pixels)
    if channels <= pixels:
        _, weights = torch.linalg.eigh(vectors @ vectors.T)
        return weights.flip(1)[:, :kept].T @ vectors
    # The P x P Gram matrix has the same eigenvalues, and its eigenvectors are the components with
    # length one. Their true length, sqrt(eigenvalue), is more accurate as a projection's norm.
    _, directions = torch.linalg.eigh(vectors.T @ vectors)
    directions = directions.flip(1)[:, :kept]
    return (directions * (vectors @ directions).norm(dim=0)).T


def to_picture(feature: Tensor, size: tuple[int, int]) -> Image.Image:
    """Draws a feature map: its first three principal components as red, green and blue.

    Args:
        feature: [C, H, W].
        size: (height, width) of the picture; feature pixels stay visible as squares.

    Raises:
        ValueError: As ``principal_components``.
    """
    components = principal_components(feature)
    pixels = _stretch(components).permute(1, 2, 0)
    height, width = size
    return Image.fromarray(pixels.numpy(), "RGB").resize((width, height), Image.Resampling.NEAREST)


def _stretch(planes: Tensor) -> Tensor:
    """Stretches each plane [H, W] to the whole range of bytes."""
    flat = _sample(planes.flatten(1))
    low, high = (torch.quantile(flat, q, dim=1).view(-1, 1, 1) for q in (LOW, HIGH))
    scaled = (planes - low) / (high - low).clamp(min=torch.finfo(torch.float32).tiny)
    return (scaled.clamp(0, 1) * 255).round().byte()


def channel_mosaic(feature: Tensor, size: tuple[int, int], count: int = 16) -> Image.Image:
    """Draws the channels that vary most, each in grey with a range of its own.

    Args:
        feature: [C, H, W].
        size: (height, width) of the picture, at least a pixel for each tile.
        count: Channels to draw, at most C; they are drawn row by row, the most varied first.

    Raises:
        ValueError: As ``principal_components``.
    """
    _check(feature)
    values = feature.detach().float()
    order = values.flatten(1).var(dim=1, correction=0).argsort(descending=True, stable=True)
    tiles = _stretch(values[order[:count]])
    columns = math.ceil(math.sqrt(len(tiles)))
    rows = math.ceil(len(tiles) / columns)
    height, width = max(1, size[0] // rows), max(1, size[1] // columns)
    mosaic = Image.new("L", (size[1], size[0]))
    for index, tile in enumerate(tiles):
        row, column = divmod(index, columns)
        picture = Image.fromarray(tile.numpy()).resize((width, height), Image.Resampling.NEAREST)
        mosaic.paste(picture, (column * width, row * height))
    return mosaic.convert("RGB")


def pixel_norms(feature: Tensor) -> Tensor:
    """Returns the root mean square over channels, [H, W], of a feature map [C, H, W].

    This is the length of each pixel's vector divided by the square root of C, so that stages of
    different widths can be compared.

    Raises:
        ValueError: As ``principal_components``.
    """
    _check(feature)
    return feature.detach().float().square().mean(dim=0).sqrt()


def norm_histogram(features: Mapping[str, Tensor]) -> Image.Image:
    """Draws a histogram of ``pixel_norms`` for each stage, all on the same scale from 0.

    Args:
        features: Maps [C, H, W] by name.

    Raises:
        ValueError: As ``principal_components``.
    """
    norms = {name: pixel_norms(feature).flatten() for name, feature in features.items()}
    most = max(float(values.max()) for values in norms.values()) or 1.0
    height = _PANEL_HEIGHT + 2 * _MARGIN
    picture = Image.new("RGB", (_BINS * _BAR_WIDTH, height * len(norms)), _PAPER)
    pen = ImageDraw.Draw(picture)
    for index, (name, values) in enumerate(norms.items()):
        caption = f"{name}: median {float(values.median()):.4g}, largest {float(values.max()):.4g}"
        _draw_panel(pen, index * height, torch.histc(values, _BINS, 0, most), caption, most)
    return picture


def _draw_panel(
    pen: ImageDraw.ImageDraw, top: int, counts: Tensor, caption: str, most: float
) -> None:
    font = ImageFont.load_default()
    base = top + _MARGIN + _PANEL_HEIGHT
    right = len(counts) * _BAR_WIDTH - 1
    pen.text((2, top + 2), caption, _INK, font)
    for index, share in enumerate((counts / counts.max()).tolist()):
        if share > 0:
            left = index * _BAR_WIDTH
            bar = (left, base - share * _PANEL_HEIGHT, left + _BAR_WIDTH - 2, base)
            pen.rectangle(bar, _BARS)
    pen.line((0, base, right, base), _INK)
    pen.text((2, base + 2), "0", _INK, font)
    pen.text((right, base + 2), f"{most:.4g}", _INK, font, anchor="ra")


def _sample(flat: Tensor, most: int = 1_000_000) -> Tensor:
    """Drops columns evenly, because torch.quantile rejects more than 16 million values."""
    return flat[:, :: max(1, flat.shape[1] // most)]


def beside(*pictures: Image.Image) -> Image.Image:
    """Puts pictures of equal height in a row."""
    row = Image.new("RGB", (sum(p.width for p in pictures), pictures[0].height))
    left = 0
    for picture in pictures:
        row.paste(picture, (left, 0))
        left += picture.width
    return row
