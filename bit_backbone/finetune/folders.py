"""Labelled images in folders: ROOT/CLASS/IMAGE, torchvision's ImageFolder."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torchvision.datasets import ImageFolder

from bit_backbone.finetune.transforms import load_rgb
from bit_backbone.preprocessing.deep import AUTO, BitDepth, check_depth
from bit_backbone.utils.image_files import Ignored, has_clutter, is_clutter, is_image

_SPLITS = frozenset(("train", "training", "val", "valid", "validation", "eval", "test", "testing"))


class LabelledImages(ImageFolder):
    """An ImageFolder that may take its classes from another one.

    Images are made RGB with transparency composited on white, and turned upright.

    Args:
        root: Holds a folder of images for each class.
        transform: Applied to each PIL image.
        bit_depth: Bits in use in images with more than 8 bits per channel, or "auto".
        classes: Names of all classes, in order; None for the names of the folders. A class may be
            without a folder, but every folder must be a class.

    Attributes:
        ignored: Files that are not images, by their suffix, and files of operating systems.

    Raises:
        ValueError: The folder is missing, has no folders or no images, has a folder that is not in
            ``classes``, or its folders are the parts of a data set instead of classes.
    """

    def __init__(
        self,
        root: Path,
        transform: Callable[[Any], Any] | None = None,
        classes: Sequence[str] | None = None,
        bit_depth: BitDepth = AUTO,
    ) -> None:
        self._names, self.ignored = classes, Ignored()
        self._root = str(root)
        loader = partial(load_rgb, bit_depth=check_depth(bit_depth))
        try:
            super().__init__(
                str(root),
                transform,
                loader=loader,
                is_valid_file=self._is_valid,
                allow_empty=classes is not None,
            )
        except FileNotFoundError as error:
            ignored = f" (ignored: {self.ignored})" if self.ignored else ""
            raise ValueError(
                f"labelled images must be files ROOT/CLASS/IMAGE; under {root}: {error}{ignored}"
            ) from error
        if not self.samples:
            raise ValueError(
                f"labelled images must be files ROOT/CLASS/IMAGE, found none under {root}"
            )

    def _is_valid(self, path: str) -> bool:
        below = os.path.relpath(path, self._root)
        if is_image(path) and not has_clutter(below):
            return True
        self.ignored.add(path)
        return False

    def find_classes(self, directory: str) -> tuple[list[str], dict[str, int]]:
        """Returns the classes and their indices."""
        everything, _ = super().find_classes(directory)
        found = [name for name in everything if not is_clutter(name)]
        for name in filter(is_clutter, everything):
            self.ignored.add(name)
        if not found:
            raise FileNotFoundError(f"no folder of a class was found in {directory}")
        if set(found) <= _SPLITS - set(self._names or ()):
            split = next((name for name in found if name.startswith("train")), found[0])
            raise ValueError(
                f"labelled images must be files ROOT/CLASS/IMAGE, and {directory} holds a data "
                f"set's splits: {', '.join(found)}; name one of them, {Path(directory) / split}"
            )
        if self._names is None:
            return found, {name: i for i, name in enumerate(found)}
        strange = sorted(set(found) - set(self._names))
        if strange:
            raise ValueError(
                f"{directory} has folders of classes that the training images do not have: "
                f"{', '.join(strange)}"
            )
        return list(self._names), {name: i for i, name in enumerate(self._names)}
