"""Augmentation of images with boxes, by name; all of it is torchvision's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import nn
from torchvision.transforms import v2

AUGMENTATIONS: Mapping[str, Callable[[], nn.Module]] = {
    "hflip": v2.RandomHorizontalFlip,
    "photometric": v2.RandomPhotometricDistort,
    "zoom-out": v2.RandomZoomOut,
    "iou-crop": v2.RandomIoUCrop,
}


def train_transforms(names: Sequence[str], *, keypoints: bool = False) -> v2.Compose | None:
    """Returns the named augmentations in order, or None where there is none.

    Args:
        names: Keys of ``AUGMENTATIONS``.
        keypoints: Whether targets hold keypoints.

    Raises:
        ValueError: A name is unknown, or does not go with keypoints.
    """
    for name in names:
        if name not in AUGMENTATIONS:
            raise ValueError(f"augmentations are {', '.join(AUGMENTATIONS)}; got {name!r}")
        if keypoints and name == "hflip":
            raise ValueError(
                "hflip is not for keypoints: it would have to exchange those named left and right; "
                "leave it out"
            )
        if keypoints and name == "iou-crop":
            raise ValueError(
                "iou-crop is not for keypoints: it would leave points outside the image; leave it "
                "out"
            )
    if not names:
        return None
    # Cropping leaves boxes of no area or outside the image; the data set drops the empty ones.
    return v2.Compose([*(AUGMENTATIONS[name]() for name in names), v2.ClampBoundingBoxes()])
