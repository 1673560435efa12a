"""A folder in COCO's format as a data set for semantic segmentation."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors

from bit_backbone.datasets.coco import CocoFolder
from bit_backbone.datasets.coco.document import Document
from bit_backbone.datasets.coco.problems import POLICIES, UPRIGHT
from bit_backbone.preprocessing.deep import AUTO, BitDepth
from bit_backbone.preprocessing.images import decode
from bit_backbone.utils.unreadable import reading

IGNORED = 255
"""The label of pixels that training and evaluation ignore, as in Pascal VOC and Cityscapes."""

Transforms = Callable[[Tensor, dict[str, Any]], tuple[Tensor, dict[str, Any]]]


class SemanticFolder(torch.utils.data.Dataset[tuple[Tensor, dict[str, Any]]]):
    """Images and a class for each of their pixels.

    An item is an image, float32 [3, H, W] in 0..1, and a target: ``semantic``, int64 [H, W] with 0
    for the background, 1 .. number of categories, and 255 for pixels to ignore; and ``image_id``.

    The labels come from maps of category ids, or from the instances' masks. With masks, pixels of
    crowds and pixels in objects of several categories are ignored; torchvision's reference
    (``references/segmentation/coco_utils.py``) ignores every overlap.

    Args:
        root: The folder, or the result of ``bit_backbone.datasets.open_document``.
        annotations: The annotation file, below a folder.
        images: The folder of the images, below it.
        maps: The folder of the maps, below ``root`` or beside the images of an opened data set. It
            holds one PNG per image, with the image's name and a category's id at each pixel; 0 is
            the background, and 255 is ignored. None makes the labels from the instances' masks;
            polygons need pycocotools.
        on_invalid: As in ``CocoFolder``.
        bit_depth: As in ``CocoFolder``.
        exif: As in ``CocoFolder``; maps must match the images turned in this way.
        categories: As in ``CocoFolder``; pixels of other categories are ignored.
        transforms: Called with a ``tv_tensors.Image`` in 0..1 and the target, whose ``semantic`` is
            a ``tv_tensors.Mask``.

    Attributes:
        categories: Names, label 1 first.
        category_ids: Their ids in the file, label 1 first.
        problems: The annotations that were repaired or left out.

    Raises:
        AnnotationError: The annotations are wrong.
        MissingExtraError: Masks are polygons and pycocotools is missing.
        ValueError: There are more than 254 categories, there is no folder of maps, or a category
            has an id that means something else in maps.
    """

    keypoint_names = ()

    def __init__(
        self,
        root: str | os.PathLike[str] | Document,
        *,
        annotations: str = "instances.json",
        images: str = "images",
        maps: str | None = None,
        on_invalid: str = POLICIES[0],
        bit_depth: BitDepth = AUTO,
        categories: Sequence[str] | None = None,
        exif: str = UPRIGHT,
        transforms: Transforms | None = None,
    ) -> None:
        self.instances = CocoFolder(
            root,
            annotations=annotations,
            images=images,
            masks=maps is None,
            include_crowd=True,
            on_invalid=on_invalid,
            bit_depth=bit_depth,
            categories=categories,
            exif=exif,
        )
        self.file, self.transforms = self.instances.file, transforms
        self.categories = self.instances.categories
        self.category_ids = self.instances.category_ids
        self.aspect_ratios, self.path = self.instances.aspect_ratios, self.instances.path
        self.problems, self.exif = self.instances.problems, exif
        self.bit_depth = self.instances.bit_depth
        if len(self.categories) >= IGNORED:
            raise ValueError(
                f"semantic labels are 1 to {IGNORED - 1}, and {IGNORED} is ignored: {self.file} "
                f"should have fewer categories than {IGNORED}, got {len(self.categories)}"
            )
        base = root.folder.parent if isinstance(root, Document) else Path(root)
        self.maps = None if maps is None else base / maps
        if self.maps is not None:
            self._check_maps(self.maps)

    def _check_maps(self, maps: Path) -> None:
        if not maps.is_dir():
            raise ValueError(
                f"{maps} should be a folder of maps of category ids; without one the labels are "
                "made from the instances' masks"
            )
        taken = sorted({0, IGNORED} & set(self.category_ids))
        if taken:
            raise ValueError(
                f"semantic maps hold 0 for the background and {IGNORED} for what to ignore: the "
                f"categories of {self.file} should have other ids, got {taken}"
            )

    def __len__(self) -> int:
        return len(self.instances)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Any]]:
        image, instances = self.instances[index]
        if self.maps is None:
            semantic = merge_masks(instances["masks"], instances["labels"], instances["iscrowd"])
        else:
            semantic = self._read(self.maps / self._map_name(index), tuple(image.shape[-2:]))
        target: dict[str, Any] = {"semantic": semantic, "image_id": instances["image_id"]}
        if self.transforms is not None:
            target["semantic"] = tv_tensors.Mask(semantic)
            image, target = self.transforms(tv_tensors.Image(image), target)
            target["semantic"] = target["semantic"].as_subclass(Tensor)
            image = image.as_subclass(Tensor)
        return image, target

    def without(self, indices: Collection[int]) -> SemanticFolder:
        """Returns the same data set without some of its images."""
        rest = copy.copy(self)
        rest.instances = self.instances.without(indices)
        rest.aspect_ratios, rest.path = rest.instances.aspect_ratios, rest.instances.path
        return rest

    def num_objects(self) -> int | None:
        """Returns the number of objects to learn from; None for maps, which are not read yet."""
        return self.instances.num_objects() if self.maps is None else None

    def _map_name(self, index: int) -> Path:
        return Path(self.instances.file_name(index)).with_suffix(".png")

    def _read(self, path: Path, size: tuple[int, ...]) -> Tensor:
        """Reads a map, and replaces category ids by labels."""
        with reading(path, f"the semantic map {path} cannot be read: "):
            ids = np.asarray(decode(path, str(path), None))
        if ids.shape != size:
            raise ValueError(
                f"a semantic map has one channel and its image's size, {size[1]}x{size[0]}; {path} "
                f"is {list(ids.shape)}"
            )
        return torch.from_numpy(self._labels(ids, path)).long()

    def _labels(self, ids: np.ndarray, path: Path) -> np.ndarray:
        known = {IGNORED: IGNORED, 0: 0}
        known |= dict.fromkeys(self.instances.other_ids, IGNORED)
        known |= {id_: label for label, id_ in enumerate(self.category_ids, start=1)}
        present, where = np.unique(ids, return_inverse=True)
        strangers = sorted({int(id_) for id_ in present} - known.keys())
        if strangers:
            raise ValueError(
                f"a semantic map holds 0, ids of the file's categories and {IGNORED}; {path} also "
                f"holds {strangers}"
            )
        return np.array([known[int(id_)] for id_ in present])[where].reshape(ids.shape)


def merge_masks(masks: Tensor, labels: Tensor, iscrowd: Tensor) -> Tensor:
    """Merges the masks of an image's objects into one map of labels.

    Args:
        masks: uint8 [n, H, W].
        labels: int64 [n], from 1.
        iscrowd: int64 [n].

    Returns:
        int64 [H, W]: 0 for the background, 255 for crowds and overlaps of different labels.
    """
    masks = masks.bool()
    semantic = torch.zeros(masks.shape[1:], dtype=torch.int64)
    is_taken = torch.zeros_like(semantic, dtype=torch.bool)
    for label in labels[iscrowd == 0].unique():
        is_own = masks[(labels == label) & (iscrowd == 0)].any(0)
        semantic[is_own] = torch.where(is_taken[is_own], IGNORED, label)
        is_taken |= is_own
    is_crowd = masks[iscrowd == 1].any(0)
    semantic[is_crowd & ~is_taken] = IGNORED
    return semantic
