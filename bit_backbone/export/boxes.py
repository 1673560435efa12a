"""Boxes of detectors in operators that every exporter takes: anchors, suppression, pooling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bit_backbone.export.sizes import Size, as_tensor


def anchors_of(generator: Any, canvas: Tensor, levels: Sequence[Tensor]) -> list[Tensor]:
    """Returns the anchors [h * w * A, 4] of each level, as torchvision's AnchorGenerator has them.

    Args:
        generator: torchvision's.
        canvas: [1, 3, H, W].
        levels: [1, C, h, w] each.
    """
    anchors = []
    for level, cell in zip(levels, generator.cell_anchors, strict=True):
        height, width = level.shape[-2], level.shape[-1]
        rows = _steps(height, canvas.shape[-2])
        columns = _steps(width, canvas.shape[-1])
        y, x = rows[:, None].expand(height, width), columns[None].expand(height, width)
        shifts = torch.stack([x, y, x, y], dim=-1).reshape(-1, 1, 4)
        anchors.append((shifts + cell.to(torch.float32)).reshape(-1, 4))
    return anchors


def _steps(count: Size, extent: Size) -> Tensor:
    return (torch.arange(count) * (extent // count)).to(torch.float32)


def clip(boxes: Tensor, size: Tensor) -> Tensor:
    """Cuts boxes [..., 4] off at the border of an image of float32 [2] height and width."""
    limit = torch.stack([size[1], size[0], size[1], size[0]])
    return torch.minimum(boxes.clamp(min=0), limit)


def are_large(boxes: Tensor, least: float) -> Tensor:
    """Whether each of [N, 4] is at least so wide and high."""
    return ((boxes[:, 2:] - boxes[:, :2]) >= least).all(1)


# Two boxes that lie outside of every image, apart, with less score than any. torchvision chooses
# exporters that at least two boxes are kept, and a file would check that.
_OUTSIDE = ((-4.0, -4.0, -3.0, -3.0), (-2.0, -2.0, -1.0, -1.0))
_LEAST_SCORE = 1e-30


def nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Returns the indices that non-maximum suppression keeps, best first, and then n and n + 1.

    Args:
        boxes: [n, 4], not negative.
        scores: [n], positive.
        threshold: Overlap above which the lower score goes.
    """
    boxes = torch.cat([boxes, boxes.new_tensor(_OUTSIDE)])
    scores = torch.cat([scores, scores.new_full((len(_OUTSIDE),), _LEAST_SCORE)])
    return torch.ops.torchvision.nms(boxes, scores, threshold)


def survivors(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Returns the scores [n], with -1 where suppression drops the box."""
    kept = nms(boxes, scores, threshold)
    extended = torch.cat([scores, scores.new_zeros(len(_OUTSIDE))])
    alive = torch.full_like(extended, -1.0).index_put((kept,), extended[kept])
    return alive[: -len(_OUTSIDE)]


def suppress(boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """Returns the indices that non-maximum suppression within each label keeps, best first.

    Labels are kept apart as torchvision keeps them for up to 1000 boxes, by moving the boxes of
    each to a place of its own; with more it takes one label after the other, which differs where
    an overlap equals the threshold but for rounding.
    """
    # the zero is for no boxes
    end = torch.cat([boxes.reshape(-1), boxes.new_zeros(1)]).max() + 1
    moved = boxes + (labels.to(boxes.dtype) * end)[:, None]
    return nms(moved, scores, threshold)[: -len(_OUTSIDE)]


def pool(pooler: Any, levels: Sequence[Tensor], strides: Sequence[int], boxes: Tensor) -> Tensor:
    """Returns what MultiScaleRoIAlign pools for each of [R, 4] boxes, [R, C, h, w].

    Args:
        pooler: torchvision's.
        levels: Those that it pools from, [1, C, h, w] each.
        strides: Of the levels.
        boxes: In pixels of the canvas.
    """
    rois = torch.cat([torch.zeros_like(boxes[:, :1]), boxes], dim=1)
    level_of = _level_of(pooler, strides, boxes)
    height, width = pooler.output_size
    pooled = boxes.new_zeros(boxes.shape[0], levels[0].shape[1], height, width)
    for index, (level, stride) in enumerate(zip(levels, strides, strict=True)):
        chosen = torch.nonzero(level_of == index)[:, 0]
        values = torch.ops.torchvision.roi_align(
            level, rois[chosen], 1 / stride, height, width, pooler.sampling_ratio, False
        )
        pooled = pooled.index_put((chosen,), values)
    return pooled


def _level_of(pooler: Any, strides: Sequence[int], boxes: Tensor) -> Tensor:
    """Returns the index of the level for each box: equation 1 of arXiv 1612.03144."""
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    first, last = (stride.bit_length() - 1 for stride in (strides[0], strides[-1]))
    size = torch.log2(area.sqrt() / pooler.canonical_scale)
    level = torch.floor(pooler.canonical_level + size + 1e-6)
    return level.clamp(first, last).to(torch.int64) - first


def to_original(boxes: Tensor, size: Tensor, height: Size, width: Size) -> Tensor:
    """Brings boxes [N, 4] from the resized image to the original."""
    ratio = ratio_to_original(size, height, width)
    return boxes * torch.stack([ratio[1], ratio[0], ratio[1], ratio[0]])


def ratio_to_original(size: Tensor, height: Size, width: Size) -> Tensor:
    """Returns by how much the original is larger, float32 [2] of height and width."""
    return torch.stack([as_tensor(height, size), as_tensor(width, size)]) / size
