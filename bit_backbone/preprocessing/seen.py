"""A photograph as a backbone sees it: whole, normalised, and as a picture of the same pixels."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

from bit_backbone.preprocessing.deep import AUTO, BitDepth
from bit_backbone.preprocessing.images import ImageLike
from bit_backbone.preprocessing.processor import BitImageProcessor


def as_seen(
    photo: ImageLike, short_side: int | None = None, bit_depth: BitDepth = AUTO
) -> tuple[Image.Image, Tensor]:
    """Reads a photograph with nothing cut off.

    Args:
        photo: Its path, or what ``BitImageProcessor`` takes.
        short_side: Pixels that its shorter side is resized to; None leaves it.
        bit_depth: As of ``BitImageProcessor``.

    Returns:
        The picture, and its pixels [1, 3, H, W] in BiT's range.

    Raises:
        ValueError: It is damaged, or has more pixels than Pillow's limit.
        OSError: It is missing, truncated or no image.
    """
    processor = BitImageProcessor(do_resize=False, do_center_crop=False, bit_depth=bit_depth)
    if short_side is not None:
        processor = processor.replace(do_resize=True, size=short_side, resample="bilinear")
    pixels = processor(photo, return_tensors="pt")["pixel_values"]
    return picture_of(pixels[0], processor), pixels


def picture_of(pixels: Tensor, processor: BitImageProcessor) -> Image.Image:
    """Returns the picture that a processor has made pixels [3, H, W] of."""
    if processor.do_normalize:
        mean, std = (
            torch.tensor(v).view(-1, 1, 1) for v in (processor.image_mean, processor.image_std)
        )
        pixels = pixels * std + mean
    factor = 1 / processor.rescale_factor if processor.do_rescale else 255.0
    levels = (pixels * factor).round().clamp(0, 255).byte()
    return Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy())
