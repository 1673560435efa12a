"""Masks of detections in the image, all at once."""

from __future__ import annotations

import torch
from torch import Tensor

from bit_backbone.export.sizes import Size

PADDING = 1  # pixels around a mask, as torchvision's paste_masks_in_image has them


def paste(masks: Tensor, boxes: Tensor, height: Size, width: Size) -> Tensor:
    """Returns what torchvision's ``paste_masks_in_image`` does, without a loop over detections.

    Bilinear resizing is a product with a matrix from each side. The box and its enlargement are
    whole pixels.

    Args:
        masks: Probabilities [N, 1, M, M].
        boxes: [N, 4], in pixels of the image.
        height: Of the image.
        width: Of the image.

    Returns:
        [N, 1, height, width].
    """
    side = masks.shape[-1]
    padded = torch.nn.functional.pad(masks[:, 0], (PADDING,) * 4)
    edges = _enlarged(boxes, (side + 2 * PADDING) / side).to(torch.int64)
    rows = _weights(edges[:, 1], edges[:, 3], height, side + 2 * PADDING)
    columns = _weights(edges[:, 0], edges[:, 2], width, side + 2 * PADDING)
    return (rows @ padded @ columns.transpose(1, 2))[:, None]


def _enlarged(boxes: Tensor, scale: float) -> Tensor:
    half = (boxes[:, 2:] - boxes[:, :2]) * 0.5 * scale
    centre = (boxes[:, 2:] + boxes[:, :2]) * 0.5
    return torch.cat([centre - half, centre + half], dim=1)


def _weights(start: Tensor, end: Tensor, extent: Size, side: int) -> Tensor:
    """Returns what each row of the mask adds to each row of the image, [N, extent, side]."""
    length = (end - start + 1).clamp(min=1)[:, None]
    offset = torch.arange(extent)[None] - start[:, None]
    inside = (offset >= 0) & (offset < length)
    scale = side / length.to(torch.float32)
    point = (scale * (offset.to(torch.float32) + 0.5) - 0.5).clamp(0, side - 1)
    distance = (point[:, :, None] - torch.arange(side)).abs()
    return torch.where(inside[:, :, None], (1 - distance).clamp(min=0), 0.0)
