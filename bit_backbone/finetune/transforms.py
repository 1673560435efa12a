"""Preparation of images for training and evaluation, as in the official fine-tuning.

Source: ``bit_pytorch/train.py`` of google-research/big_transfer: the aspect ratio is not kept,
    training crops at random and mirrors, resizing is bilinear, and mean and deviation are 0.5.
"""

from __future__ import annotations

import os
import random
import statistics
from typing import Any

import torch
from PIL import Image
from torchvision.transforms import v2

from bit_backbone.finetune.hyperrule import Resolution
from bit_backbone.preprocessing import BitImageProcessor
from bit_backbone.preprocessing.deep import AUTO, BitDepth
from bit_backbone.preprocessing.images import header_size, read
from bit_backbone.preprocessing.settings import Settings
from bit_backbone.utils.unreadable import reading

SAMPLED_IMAGES = 500


class ToPixelValues:
    """Image to [C, H, W] by a processor; can be pickled for loader workers."""

    def __init__(self, processor: BitImageProcessor) -> None:
        self.processor = processor

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """Prepares one image."""
        return self.processor(image, return_tensors="pt")["pixel_values"][0]


def eval_processor(resolution: Resolution, bit_depth: BitDepth = AUTO) -> BitImageProcessor:
    """Returns the preprocessing of images in evaluation and for the finished model."""
    size = (resolution.crop, resolution.crop)
    settings: Settings = {"size": size, "crop_size": size, "bit_depth": bit_depth}
    return BitImageProcessor.from_preset("official", **settings)


def eval_transform(resolution: Resolution) -> ToPixelValues:
    """Returns the preprocessing of images in evaluation: PIL image to [3, crop, crop]."""
    return ToPixelValues(eval_processor(resolution))


def train_transform(resolution: Resolution, flip: bool = True) -> v2.Compose:
    """Returns the augmentation of training images: PIL image to [3, crop, crop].

    Args:
        resolution: Of the data set, see ``hyperrule.resolution``.
        flip: Whether to mirror half of the images; False if left and right matter, as for text.
    """
    square = (resolution.resize, resolution.resize)
    steps: list[Any] = [v2.Resize(square), v2.RandomCrop(resolution.crop)]
    if flip:
        steps.append(v2.RandomHorizontalFlip())
    return v2.Compose([*steps, ToPixelValues(eval_processor(resolution).replace(do_resize=False))])


def load_rgb(path: str | os.PathLike[str], bit_depth: BitDepth = AUTO) -> Image.Image:
    """Opens an image file upright and as RGB, with transparency composited on white.

    Args:
        path: Of the file.
        bit_depth: Bits in use in images with more than 8 bits per channel.

    Raises:
        UnreadableImageError: The file is missing, damaged, not an image or too large for the
            memory.
    """
    with reading(path, f"cannot read the image {path}: ", once=True):
        image = read(path, True, None, 255.0, bit_depth)
    assert isinstance(image, Image.Image)  # as every file becomes
    return image


def typical_size(paths: list[str]) -> tuple[int, int]:
    """Returns the median height and the median width of (at most 500) image files.

    Only the headers are read; images without a readable header do not count.

    Raises:
        ValueError: There is no file, or none of the files is an image.
    """
    if not paths:
        raise ValueError("a training set needs at least one image, got none")
    sampled = random.Random(0).sample(paths, min(len(paths), SAMPLED_IMAGES))
    sizes = [size for path in sampled if (size := header_size(path)) is not None]
    if not sizes:
        raise ValueError(f"none of {len(sampled)} images can be read, such as {sampled[0]}")
    widths, heights = zip(*sizes, strict=True)
    return int(statistics.median(heights)), int(statistics.median(widths))
