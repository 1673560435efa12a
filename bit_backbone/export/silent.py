"""Detectors that find nothing on the images which their file is to be verified on."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bit_backbone.export.detectron2_model import Detectron2Detector
from bit_backbone.export.pixels import LEVELS

COUNT = 7  # candidates of each image, at least, that the lower threshold lets through


def lower_threshold(model: nn.Module, images: Sequence[np.ndarray]) -> nn.Module:
    """Returns a copy of a detector whose threshold lets its best candidates through.

    Args:
        model: A detector; not changed.
        images: uint8 [H, W, 3].
    """
    copied: Any = copy.deepcopy(model).cpu().float().eval()
    _set_threshold(copied, -1.0)
    given = [torch.from_numpy(image).permute(2, 0, 1) / LEVELS for image in images]
    with torch.inference_mode():
        scores: list[Tensor] = [copied([image])[0]["scores"] for image in given]
    best = [each.sort(descending=True).values[:COUNT] for each in scores if len(each)]
    # Below all of them by a little, so that rounding decides over none.
    _set_threshold(copied, min(float(each[-1]) for each in best) * (1 - 1e-3) if best else 1.0)
    lowered: nn.Module = copied
    return lowered


def _set_threshold(model: Any, threshold: float) -> None:
    if isinstance(model, Detectron2Detector):
        model.set_threshold(threshold)
    else:
        getattr(model, "roi_heads", model).score_thresh = threshold
