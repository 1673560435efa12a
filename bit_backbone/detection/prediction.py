"""What a trained detector or segmenter finds in one image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from bit_backbone.preprocessing.deep import BitDepth
from bit_backbone.preprocessing.images import read


def read_image(image: Path | Image.Image, bit_depth: BitDepth) -> Tensor:
    """Returns an image upright as RGB, float32 [3, H, W] in 0..1.

    Raises:
        ValueError: It is damaged, or has more pixels than Pillow's limit.
        OSError: It is missing, truncated or no image.
    """
    from torchvision.transforms.v2 import functional as F  # which takes a second

    pixels = F.to_image(read(image, True, None, 1.0, bit_depth))
    return F.to_dtype(pixels, torch.float32, scale=True).as_subclass(torch.Tensor)


@torch.inference_mode()
def predict(model: Any, image: Tensor, device: torch.device | str) -> dict[str, Tensor]:
    """Returns what is found in an image.

    Args:
        model: A detector or ``Segmenter`` in eval mode, or an exported file of one.
        image: float32 [3, H, W] in 0..1.
        device: The model's.

    Raises:
        ValueError: The image is too thin for the detector.
    """
    if hasattr(model, "transform"):  # neither an exported file nor a segmenter has its sizes
        from bit_backbone.detection.models import check_image

        check_image(model, image)
    found: dict[str, Tensor]
    (found,) = model([image.to(device)])
    return found
