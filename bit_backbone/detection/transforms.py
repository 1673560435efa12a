"""Augmentation of images with boxes or label maps, by name, with torchvision's transforms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from torch import nn
from torchvision import tv_tensors
from torchvision.transforms import v2

from bit_backbone.datasets.semantic import IGNORED

AUGMENTATIONS: Mapping[str, Callable[[], nn.Module]] = {
    "hflip": v2.RandomHorizontalFlip,
    "photometric": v2.RandomPhotometricDistort,
    "zoom-out": v2.RandomZoomOut,
    "iou-crop": v2.RandomIoUCrop,
}

# What a segmenter's padding is filled with: grey, and the label of pixels that do not count.
_FILL = {tv_tensors.Image: 0.5, tv_tensors.Mask: IGNORED}
# pytorch/vision, references/segmentation: base size 520, crop 480
SEMANTIC_AUGMENTATIONS: Mapping[str, Callable[[], nn.Module]] = {
    "hflip": v2.RandomHorizontalFlip,
    "photometric": v2.RandomPhotometricDistort,
    "zoom-out": partial(v2.RandomZoomOut, fill=_FILL),
    "scale-crop": lambda: v2.Compose(
        [v2.RandomResize(260, 1040), v2.RandomCrop(480, pad_if_needed=True, fill=_FILL)]
    ),
}


def semantic_transforms(names: Sequence[str]) -> v2.Compose | None:
    """Returns the named augmentations of images with label maps, or None where there is none.

    Args:
        names: Keys of ``SEMANTIC_AUGMENTATIONS``.

    Raises:
        ValueError: A name is unknown.
    """
    for name in names:
        if name not in SEMANTIC_AUGMENTATIONS:
            raise ValueError(
                f"augmentations of label maps are {', '.join(SEMANTIC_AUGMENTATIONS)}; got {name!r}"
            )
    return v2.Compose([SEMANTIC_AUGMENTATIONS[name]() for name in names]) if names else None


def train_transforms(names: Sequence[str], *, keypoints: bool = False) -> v2.Compose | None:
    """Returns the named augmentations in order, or None where there is none.

    Args:
        names: Keys of ``AUGMENTATIONS``.
        keypoints: Whether targets hold keypoints.

    Raises:
        ValueError: A name is unknown, or cannot be used with keypoints.
    """
    for name in names:
        if name not in AUGMENTATIONS:
            raise ValueError(f"augmentations are {', '.join(AUGMENTATIONS)}; got {name!r}")
        if keypoints and name == "hflip":
            raise ValueError(
                "hflip cannot be used with keypoints, because it does not exchange left and right; "
                "leave it out"
            )
        if keypoints and name == "iou-crop":
            raise ValueError(
                "iou-crop cannot be used with keypoints, because it leaves points outside the "
                "image; "
                "leave it out"
            )
    if not names:
        return None
    # Cropping leaves boxes of no area or outside the image; the data set drops the empty ones.
    return v2.Compose([*(AUGMENTATIONS[name]() for name in names), v2.ClampBoundingBoxes()])
