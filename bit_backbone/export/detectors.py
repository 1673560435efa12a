"""torchvision's detectors as programs: their own layers, and around them operators of ours.

torchvision's own code around the layers decides in Python, by the numbers of boxes and the sizes
of images, and an exporter either stops there or takes the decision for good. What is written here
gives the same detections, and torchvision stays as it is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import KeypointRCNN, MaskRCNN
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from bit_backbone.export.boxes import ratio_to_original, suppress, to_original
from bit_backbone.export.dense import DenseCandidates
from bit_backbone.export.keypoints import locate
from bit_backbone.export.layers import portable
from bit_backbone.export.masks import paste
from bit_backbone.export.pixels import LEVELS
from bit_backbone.export.program import EXAMPLE_SIZE, Program
from bit_backbone.export.proposals import RegionCandidates
from bit_backbone.export.resizing import DetectorPixels
from bit_backbone.export.settings import ExportSettings

BOXES = ("boxes", "labels", "scores")


def detector_program(model: Any, settings: ExportSettings) -> Program:
    """Returns what a detector's file computes: one image in, its objects out.

    Raises:
        ValueError: The detector finds masks or keypoints, and suppression is to be left out.
    """
    outputs = (*BOXES, *_parts(model))
    if not settings.with_nms and len(outputs) > len(BOXES):
        raise ValueError(
            f"the {outputs[-1]} of a {type(model).__name__} are those of the boxes that "
            "suppression keeps: export it with with_nms=True"
        )
    plain = portable(model, getattr(torch, settings.precision))
    module = Detector(plain, settings.with_nms, settings.with_preprocessing)
    size = settings.image_size or EXAMPLE_SIZE
    if settings.with_preprocessing:
        example = torch.randint(0, 256, (*size, 3), dtype=torch.uint8)
    else:
        example = torch.rand(3, *size)
    axes = (0, 1) if settings.with_preprocessing else (1, 2)
    dynamic = () if settings.image_size else axes
    return Program(module, "detection", "image", example, dynamic, outputs)


def _parts(model: Any) -> tuple[str, ...]:
    if isinstance(model, MaskRCNN):
        return ("masks",)
    return ("keypoints", "keypoints_scores") if isinstance(model, KeypointRCNN) else ()


class Detector(nn.Module):
    """A detector of one image.

    Args:
        model: torchvision's, in portable form.
        with_nms: Whether to choose among the candidates.
        takes_bytes: Whether the image is uint8 [H, W, 3], else float32 [3, H, W] in 0..1.
    """

    def __init__(self, model: Any, with_nms: bool, takes_bytes: bool) -> None:
        super().__init__()
        self.model: Any = model
        self.with_nms, self.takes_bytes = with_nms, takes_bytes
        self.pixels = DetectorPixels(model.transform)
        regions = isinstance(model, GeneralizedRCNN)
        self.candidates: Any = RegionCandidates(model) if regions else DenseCandidates(model)
        self.rules = model.roi_heads if regions else model

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Returns boxes, labels and scores of the objects, or of all candidates.

        Boxes are x1 y1 x2 y2 in pixels of the image.
        """
        if self.takes_bytes:
            image = image.permute(2, 0, 1).to(torch.float32) / LEVELS
        height, width = image.shape[-2], image.shape[-1]
        canvas, size = self.pixels(image)
        levels = list(self.model.backbone(canvas).values())
        boxes, scores, labels = self.candidates(canvas, size, levels)
        if not self.with_nms:
            return to_original(boxes, size, height, width), labels, scores
        boxes, labels, scores = self.choose(boxes, labels, scores)
        found = to_original(boxes, size, height, width)
        if isinstance(self.model, MaskRCNN):
            masks = self.candidates.masks(levels, boxes, labels)
            return found, labels, scores, paste(masks, found, height, width)
        if isinstance(self.model, KeypointRCNN):
            maps = self.candidates.heatmaps(levels, boxes)
            points, sure = locate(maps, boxes, canvas.shape[-2], canvas.shape[-1])
            ratio = ratio_to_original(size, height, width)
            scale = torch.stack([ratio[1], ratio[0], torch.ones_like(ratio[0])])
            return found, labels, scores, points * scale, sure
        return found, labels, scores

    def choose(self, boxes: Tensor, labels: Tensor, scores: Tensor) -> tuple[Tensor, ...]:
        """Keeps what torchvision's ``postprocess_detections`` keeps of candidates, best first."""
        scored = torch.nonzero(scores > self.rules.score_thresh)[:, 0]
        boxes, labels, scores = boxes[scored], labels[scored], scores[scored]
        kept = suppress(boxes, scores, labels, self.rules.nms_thresh)
        kept = kept[: self.rules.detections_per_img]
        return boxes[kept], labels[kept], scores[kept]
