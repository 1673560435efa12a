"""Keypoints of detections, from heatmaps that are enlarged to the size of each box."""

from __future__ import annotations

import torch
from torch import Tensor

from bit_backbone.export.sizes import Size

_CUBIC = -0.75  # PyTorch's bicubic; Pillow's is -0.5
_TAPS = (-1, 0, 1, 2)


def locate(maps: Tensor, boxes: Tensor, height: Size, width: Size) -> tuple[Tensor, Tensor]:
    """Returns what torchvision's ``heatmaps_to_keypoints`` does, without a loop over detections.

    Each heatmap is enlarged on a canvas that holds every box, one kind of keypoint at a time, which
    takes N x height x width numbers.

    Args:
        maps: Heatmaps [N, K, M, M].
        boxes: [N, 4], in pixels of the canvas.
        height: Of the canvas.
        width: Of the canvas.

    Returns:
        [N, K, 3] with x, y and 1, and scores [N, K].
    """
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1)
    cells = sides.ceil()
    columns = _weights(cells[:, 0], width, maps.shape[-1])
    rows = _weights(cells[:, 1], height, maps.shape[-1])
    outside = _outside(cells[:, 1], height)[:, :, None] | _outside(cells[:, 0], width)[:, None, :]
    steps = sides / cells
    points, scores = [], []
    for index in range(maps.shape[1]):
        surface = rows @ maps[:, index] @ columns.transpose(1, 2)
        best, place = surface.masked_fill(outside, -torch.inf).flatten(1).max(1)
        row = torch.div(place, width, rounding_mode="floor")
        cell = torch.stack([place - row * width, row], dim=1).to(torch.float32)
        point = (cell + 0.5) * steps + boxes[:, :2]
        points.append(torch.cat([point, torch.ones_like(point[:, :1])], dim=1))
        scores.append(best)
    return torch.stack(points, dim=1), torch.stack(scores, dim=1)


def _outside(cells: Tensor, extent: Size) -> Tensor:
    return torch.arange(extent)[None] >= cells[:, None]


def _weights(cells: Tensor, extent: Size, side: int) -> Tensor:
    """Returns what each cell of a heatmap adds to each place, [N, extent, side]."""
    places = torch.arange(extent).to(torch.float32)[None]
    point = (side / cells[:, None]) * (places + 0.5) - 0.5
    before = point.floor()
    share = point - before
    sources = torch.arange(side)
    weights = torch.zeros_like(share)[:, :, None] * sources
    for tap in _TAPS:
        source = (before.to(torch.int64) + tap).clamp(0, side - 1)
        weight = _kernel((share - tap).abs())
        weights = weights + torch.where(source[:, :, None] == sources, weight[:, :, None], 0.0)
    return weights


def _kernel(x: Tensor) -> Tensor:
    a = _CUBIC
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return torch.where(x <= 1, near, torch.where(x < 2, far, 0.0))
