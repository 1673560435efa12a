"""RetinaNet and FCOS: a score and a box for every class at every anchor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS

from bit_backbone.export.boxes import anchors_of, clip
from bit_backbone.export.sizes import least


class DenseCandidates(nn.Module):
    """The best candidates of each level.

    Args:
        model: torchvision's RetinaNet or FCOS.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.head, self.anchor_generator = model.head, model.anchor_generator
        self.most, self.is_fcos = model.topk_candidates, isinstance(model, FCOS)
        self.coder = model.box_coder

    def forward(
        self, canvas: Tensor, size: Tensor, levels: list[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns boxes [R, 4] in the resized image, scores [R] and labels [R]."""
        found = []
        anchors = anchors_of(self.anchor_generator, canvas, levels)
        for level, of_level in zip(levels, anchors, strict=True):
            head = self.head([level])
            logits, codes = head["cls_logits"][0], head["bbox_regression"][0]
            classes = logits.shape[-1]
            scores = self._scores(logits, head).flatten()
            best, index = scores.topk(least(self.most, scores.shape[0]))
            anchor = torch.div(index, classes, rounding_mode="floor")
            boxes = self._decode(codes[anchor], of_level[anchor])
            found.append((clip(boxes, size), best, index - anchor * classes))
        boxes, scores, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
        return boxes, scores, labels

    def _scores(self, logits: Tensor, head: dict[str, Tensor]) -> Tensor:
        scores = logits.sigmoid()
        return torch.sqrt(scores * head["bbox_ctrness"][0].sigmoid()) if self.is_fcos else scores

    def _decode(self, codes: Tensor, anchors: Tensor) -> Tensor:
        decode = self.coder.decode if self.is_fcos else self.coder.decode_single
        return decode(codes, anchors)
