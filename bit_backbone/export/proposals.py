"""R-CNN detectors: proposals, and what the heads make of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bit_backbone.export.boxes import anchors_of, are_large, clip, pool, survivors
from bit_backbone.export.sizes import least

LEAST_SIDE = 1e-2  # pixels, of a detection; torchvision's roi_heads


class RegionCandidates(nn.Module):
    """Every class's box and score for every proposal.

    Numbers of proposals stay as large as they can be, and those that do not exist have no score,
    so that layers run on sizes that depend only on the image's size.

    Args:
        model: torchvision's Faster, Mask or Keypoint R-CNN.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.rpn, self.heads = model.rpn, model.roi_heads
        self.strides = tuple(int(stride) for stride in model.backbone.body.strides)

    def forward(
        self, canvas: Tensor, size: Tensor, levels: list[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns boxes [R, 4] in the resized image, scores [R] (-1 for none) and labels [R]."""
        proposals, exist = self._proposals(canvas, size, levels)
        pooled = self._pool(self.heads.box_roi_pool, levels, proposals)
        logits, codes = self.heads.box_predictor(self.heads.box_head(pooled))
        classes = logits.shape[-1]
        boxes = self.heads.box_coder.decode_single(codes, proposals).reshape(-1, classes, 4)
        boxes = clip(boxes, size)[:, 1:].reshape(-1, 4)
        scores = torch.where(exist[:, None], logits.softmax(-1), -1.0)[:, 1:].reshape(-1)
        scores = torch.where(are_large(boxes, LEAST_SIDE), scores, -1.0)
        labels = torch.arange(1, classes)[None].expand(proposals.shape[0], -1).reshape(-1)
        return boxes, scores, labels

    def masks(self, levels: list[Tensor], boxes: Tensor, labels: Tensor) -> Tensor:
        """Returns the probabilities [N, 1, M, M] of each detection's own class."""
        pooled = self._pool(self.heads.mask_roi_pool, levels, boxes)
        logits = self.heads.mask_predictor(self.heads.mask_head(pooled))
        side = logits.shape[-1]
        index = labels[:, None, None, None].expand(-1, 1, side, side)
        return logits.sigmoid().gather(1, index)

    def heatmaps(self, levels: list[Tensor], boxes: Tensor) -> Tensor:
        """Returns the heatmaps [N, K, M, M] of each detection's keypoints."""
        pooled = self._pool(self.heads.keypoint_roi_pool, levels, boxes)
        maps: Tensor = self.heads.keypoint_predictor(self.heads.keypoint_head(pooled))
        return maps

    def _pool(self, pooler: Any, levels: list[Tensor], boxes: Tensor) -> Tensor:
        count = len(pooler.featmap_names)
        return pool(pooler, levels[:count], self.strides[:count], boxes)

    def _proposals(
        self, canvas: Tensor, size: Tensor, levels: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Returns the best boxes [P, 4] of all levels after suppression, and which exist."""
        logits, codes = self.rpn.head(levels)
        anchors = anchors_of(self.rpn.anchor_generator, canvas, levels)
        found = [self._of_level(*of, size) for of in zip(logits, codes, anchors, strict=True)]
        boxes, scores = (torch.cat(parts) for parts in zip(*found, strict=True))
        best, index = scores.topk(least(self.rpn.post_nms_top_n(), scores.shape[0]))
        return boxes[index], best >= 0

    def _of_level(
        self, logits: Tensor, codes: Tensor, anchors: Tensor, size: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns the best boxes of a level, and their scores, -1 where one is suppressed."""
        logits = logits[0].permute(1, 2, 0).reshape(-1)
        each = codes.reshape(-1, 4, codes.shape[-2], codes.shape[-1])
        codes = each.permute(2, 3, 0, 1).reshape(-1, 4)
        best, index = logits.topk(least(self.rpn.pre_nms_top_n(), logits.shape[0]))
        boxes = clip(self.rpn.box_coder.decode_single(codes[index], anchors[index]), size)
        scores = best.sigmoid()
        alive = survivors(boxes, scores, self.rpn.nms_thresh)
        usable = are_large(boxes, self.rpn.min_size) & (scores >= self.rpn.score_thresh)
        return boxes, torch.where(usable, alive, -1.0)
