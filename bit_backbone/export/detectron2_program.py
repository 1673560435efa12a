"""detectron2's detectors as programs: the host's own code, traced, between sizes of ours.

detectron2 is written to be traced, for images of any size. What its ``DefaultPredictor`` does
around the model is here: Pillow's resizing to INPUT.MIN_SIZE_TEST, the order of the channels, and
boxes and masks in pixels of the image that was given.
"""

from __future__ import annotations

from typing import Any

import torch
from PIL.Image import Resampling
from torch import Tensor, nn

from bit_backbone.export.detectron2_model import Detectron2Detector
from bit_backbone.export.layers import portable
from bit_backbone.export.pixels import LEVELS, resampled
from bit_backbone.export.program import EXAMPLE_SIZE, Program
from bit_backbone.export.settings import ExportSettings
from bit_backbone.export.sizes import Size, as_tensor

FORMATS = ("onnx", "openvino", "torchscript")


class TracedDetector(nn.Module):
    """What a file of a Detectron2Detector computes.

    Args:
        detector: In portable form.
        takes_bytes: Whether the image is uint8 [H, W, 3], else float32 [3, H, W] in 0..1.
    """

    with_nms = True

    def __init__(self, detector: Detectron2Detector, takes_bytes: bool) -> None:
        super().__init__()
        self.detector, self.takes_bytes = detector, takes_bytes

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Returns boxes, labels, scores and masks of the objects in an image."""
        from detectron2.export.flatten import patch_builtin_len

        x = image.permute(2, 0, 1).to(torch.float32) if self.takes_bytes else image * LEVELS
        height, width = x.shape[1], x.shape[2]
        x = self._resize(x.round(), height, width)
        if self.detector.flips:
            x = x.flip(0)
        with patch_builtin_len():
            fields = self._find(x)
        size = torch.stack([as_tensor(side, x) for side in (x.shape[1], x.shape[2])])
        original = torch.stack([as_tensor(side, x) for side in (height, width)])
        boxes = fields["pred_boxes"].tensor * (original / size).flip(0).repeat(2)
        boxes = boxes.clamp(min=0).minimum(original.flip(0).repeat(2))
        kept = torch.nonzero((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]))[:, 0]
        found = boxes[kept], fields["pred_classes"][kept] + 1, fields["scores"][kept]
        if not self.detector.parts:
            return found
        return *found, _paste(fields["pred_masks"][kept], found[0], height, width)

    def _find(self, image: Tensor) -> dict[str, Any]:
        """Returns what detectron2 finds in an image of the size that the network takes."""
        model, given = self.detector.model, [{"image": image}]
        if hasattr(model, "inference"):  # an R-CNN
            found: dict[str, Any] = model.inference(given, do_postprocess=False)[0].get_fields()
            return found
        dense: dict[str, Any] = model(given)[0]["instances"].get_fields()  # in pixels of the image
        return dense

    def _resize(self, x: Tensor, height: Size, width: Size) -> Tensor:
        if self.detector.min_size == 0:
            return x
        rows, columns = self.detector.target(height, width)
        x = resampled(x, torch.arange(columns), columns, Resampling.BILINEAR)
        x = resampled(x.transpose(1, 2), torch.arange(rows), rows, Resampling.BILINEAR)
        return x.transpose(1, 2)


def _paste(masks: Tensor, boxes: Tensor, height: Size, width: Size) -> Tensor:
    """Returns probabilities [R, 1, H, W] of masks [R, 1, M, M], as detectron2 pastes them."""
    from detectron2.layers.mask_ops import _do_paste_mask

    pasted: Tensor = _do_paste_mask(masks, boxes, height, width, skip_empty=False)[0]
    return pasted[:, None]


def detectron2_program(detector: Detectron2Detector, settings: ExportSettings) -> Program:
    """Returns what the file of a detectron2 detector computes.

    Raises:
        ValueError: The format or a setting is one that detectron2's code does not allow.
    """
    if settings.format not in FORMATS:
        raise ValueError(
            f"detectron2's detectors are exported by tracing, which writes {', '.join(FORMATS)}; "
            f"got {settings.format}"
        )
    if not settings.with_nms:
        raise ValueError("a detectron2 detector is exported with its suppression: with_nms=True")
    plain = portable(detector, getattr(torch, settings.precision))
    module = TracedDetector(plain, settings.with_preprocessing).eval()
    size = settings.image_size or EXAMPLE_SIZE
    bytes_ = torch.randint(0, 256, (*size, 3), dtype=torch.uint8)
    example = bytes_ if settings.with_preprocessing else bytes_.permute(2, 0, 1) / LEVELS
    axes = (0, 1) if settings.with_preprocessing else (1, 2)
    outputs = ("boxes", "labels", "scores", *detector.parts)
    dynamic = () if settings.image_size else axes
    return Program(module, "detection", "image", example, dynamic, outputs)
