"""The images that an export is verified on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from bit_backbone.preprocessing.images import read
from bit_backbone.utils.extras import require_file
from bit_backbone.utils.image_files import IMAGE_SUFFIXES
from bit_backbone.utils.ways_out import after, passing

COUNT = 3
# Parts of two photographs of 427x640: three sizes, one of them upright, none of a whole stride.
_PARTS = (("china.jpg", (0, 0, 640, 427)), ("flower.jpg", (130, 30, 449, 407)),
          ("china.jpg", (301, 60, 562, 331)))  # fmt: skip

# Of images that all have one size, (width, height), so that a file proves that it takes others.
_SHARES = ((1.0, 1.0), (1.0, 0.75), (0.625, 0.875))


def photographs(folder: Path | None, size: tuple[int, int] | None) -> list[np.ndarray]:
    """Returns images uint8 [H, W, 3].

    Args:
        folder: With images; where all have one size, parts of two are taken. None for three parts
            of scikit-learn's two photographs.
        size: (height, width) to resize them to; None leaves them.

    Raises:
        ValueError: The folder has fewer than three images.
        MissingExtraError: There is no folder, and scikit-learn is not installed.
    """
    images = _of_folder(folder) if folder is not None else _of_sklearn()
    if size is not None:
        images = [image.resize(size[::-1], Image.Resampling.BILINEAR) for image in images]
    elif len({image.size for image in images}) == 1:
        images = [_part(image, *shares) for image, shares in zip(images, _SHARES, strict=True)]
    return [np.array(image) for image in images]


def _of_folder(folder: Path) -> Sequence[Image.Image]:
    if not folder.is_dir():
        raise ValueError(
            f"the images to verify with must be in a folder, and {folder} is not a folder"
        )
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)[:COUNT]
    if len(paths) < COUNT:
        raise ValueError(
            f"an export needs {COUNT} images to verify with, and {folder} has {len(paths)}"
            + after("; or ", passing("images", "FOLDER", "of another place"))
        )
    return [read(path, True, None, 255.0) for path in paths]  # type: ignore[misc]


def _of_sklearn() -> Sequence[Image.Image]:
    purpose = "an export without images of yours to verify with"
    return [
        Image.open(require_file("sklearn", f"datasets/images/{name}", "demo", purpose)).crop(part)
        for name, part in _PARTS
    ]


def _part(image: Image.Image, width: float, height: float) -> Image.Image:
    """Cuts off what is right of a share of the width and below one of the height."""
    sides = round(width * image.width), round(height * image.height)
    return image.crop((0, 0, max(1, sides[0]), max(1, sides[1])))
