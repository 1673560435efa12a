"""A folder in COCO's format as a data set for torchvision's detectors."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bit_backbone.datasets.coco.aligning import align
from bit_backbone.datasets.coco.annotations import check_document, load
from bit_backbone.datasets.coco.document import Document
from bit_backbone.datasets.coco.headers import wrong_size
from bit_backbone.datasets.coco.masks import decode_mask, import_mask_api
from bit_backbone.datasets.coco.problems import (
    POLICIES,
    SHOWN,
    UPRIGHT,
    AnnotationError,
    Problem,
    describe,
)
from bit_backbone.datasets.packed import Packed
from bit_backbone.preprocessing.deep import AUTO, BitDepth, check_depth
from bit_backbone.preprocessing.images import read
from bit_backbone.utils.out_of_memory import available_bytes
from bit_backbone.utils.unreadable import UnreadableImageError, reading

Target = dict[str, Any]
Transforms = Callable[[Tensor, Target], tuple[Tensor, Target]]

logger = logging.getLogger(__name__)


class CocoFolder(torch.utils.data.Dataset[tuple[Tensor, Target]]):
    """Images and objects as torchvision's detectors take them.

    An item is an image, float32 [3, H, W] in 0..1, and a target:

    * ``boxes``: float32 [n, 4], x1 y1 x2 y2 in pixels, clipped to the image.
    * ``labels``: int64 [n], 1 .. number of categories; 0 is the background.
    * ``image_id``: the image's id in the file.
    * ``area``: float32 [n], as annotated (before ``transforms``), or of the box.
    * ``iscrowd``: int64 [n].
    * ``masks`` (if requested): uint8 [n, H, W].
    * ``keypoints`` (if requested): float32 [n, k, 3], x y visibility; 0 for a crowd.

    Args:
        root: The folder, or the result of ``bit_backbone.datasets.open_document``.
        annotations: The annotation file, below a folder.
        images: The folder of the images, below it.
        masks: Yield the masks; every object must have one. Polygons need pycocotools.
        keypoints: Yield keypoints; all categories must name the same number of them.
        include_crowd: Yield regions annotated as crowds too. Detectors are trained without them,
            and evaluation reads them from the annotation file.
        on_invalid: How to handle invalid records: "repair" those that can be repaired without
            guessing, and raise one error that lists the others; "raise" one error that lists all;
            or "skip" them. Repaired and skipped records are logged and kept in ``problems``.
        bit_depth: Number of bits used of images with more than 8 bits per channel; "auto" uses all
            bits of their type. These images are scaled to 8 bits.
        categories: Names, label 1 first, such as those of a training set. They set the labels,
            whatever the ids in the file. Objects of other categories are left out. None takes the
            file's categories, by id.
        exif: "upright" turns images by their EXIF orientation, as people see them; "stored" leaves
            them as they are stored, for annotations of unturned images.
        transforms: Called with the image as uint8 ``tv_tensors.Image`` and the target, whose boxes,
            masks and keypoints' points are tv_tensors, as ``torchvision.transforms.v2`` expects.
            Objects whose box is empty afterwards are dropped.

    Attributes:
        categories: Names, label 1 first.
        category_ids: Their ids in the file, label 1 first.
        keypoint_names: Names of the keypoints, empty unless requested.
        other_ids: Ids of the file's other categories, if ``categories`` were given.
        problems: What was repaired or left out.

    Raises:
        AnnotationError: The annotations are wrong; see ``on_invalid``.
        MissingExtraError: Masks are requested, some are polygons and pycocotools is missing.
    """

    def __init__(
        self,
        root: str | os.PathLike[str] | Document,
        *,
        annotations: str = "instances.json",
        images: str = "images",
        masks: bool = False,
        keypoints: bool = False,
        include_crowd: bool = False,
        on_invalid: str = POLICIES[0],
        bit_depth: BitDepth = AUTO,
        categories: Sequence[str] | None = None,
        exif: str = UPRIGHT,
        transforms: Transforms | None = None,
    ) -> None:
        if not isinstance(root, Document):
            file = Path(root) / annotations
            root = Document(file, Path(root) / images, load(file))
        self.file, self.folder = root.file, root.folder
        self.transforms, self.bit_depth = transforms, check_depth(bit_depth)
        self.include_crowd = include_crowd
        self.masks = masks
        self.exif = exif
        options: dict[str, Any] = {"on_invalid": on_invalid, "exif": exif}
        found = check_document(root, masks=masks, keypoints=keypoints, **options)
        if categories is not None:
            align(self.file, found, categories)
        self._images = Packed(found.images)
        self._objects_of = Packed(found.by_image[image["id"]] for image in found.images)
        self._categories = found.categories
        self.categories = tuple(category["name"] for category in found.categories)
        self.category_ids = tuple(category["id"] for category in found.categories)
        self.keypoint_names = _keypoint_names(found.categories) if keypoints else ()
        self.other_ids = tuple(category["id"] for category in found.others)
        self.problems: tuple[Problem, ...] = tuple(found.problems)
        self._label_of = {id_: label for label, id_ in enumerate(self.category_ids, start=1)}
        if masks and any(isinstance(o["segmentation"], list) for o in found.objects()):
            import_mask_api()
        if self.problems:
            logger.warning("%s", describe(self.file, found.problems, shown=SHOWN))

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        from torchvision.transforms.v2 import functional as F  # seconds, which no check needs

        record = self._images[index]
        image = self._open(record)
        target = self._target(record, self._objects_of[index])
        if self.transforms is not None:
            image, target = _transform(self.transforms, image, target)
        return F.to_dtype(image, torch.float32, scale=True), target

    def get_height_and_width(self, index: int) -> tuple[int, int]:
        """Returns an image's height and width before transforms, without opening the file."""
        record = self._images[index]
        return record["height"], record["width"]

    def file_name(self, index: int) -> str:
        """Returns the name of an image's file, relative to the folder of the images."""
        return str(self._images[index]["file_name"])

    def path(self, index: int) -> Path:
        """Returns the path of an image's file."""
        return self.folder / self.file_name(index)

    def without(self, indices: Collection[int]) -> CocoFolder:
        """Returns the same data set without some of its images."""
        rest = copy.copy(self)
        rest._images = self._images.without(indices)
        rest._objects_of = self._objects_of.without(indices)
        return rest

    def aspect_ratios(self) -> list[float]:
        """Returns width / height of every image, before transforms, without opening them."""
        return [record["width"] / record["height"] for record in self._images]

    def num_objects(self) -> int:
        """Returns the number of objects to learn from; crowds do not count."""
        return sum(not object_["iscrowd"] for object_ in self._objects())

    def document(self) -> dict[str, Any]:
        """Returns the used records, crowds included, in the form that COCO's evaluation reads.

        Annotations are renumbered from 1, because evaluators take a match with id 0 for no match.
        """
        objects = self._objects()
        records = {
            "images": self._images,
            "annotations": [object_ | {"id": i} for i, object_ in enumerate(objects, start=1)],
            "categories": self._categories,
        }
        # pycocotools changes its input
        return {name: [dict(record) for record in own] for name, own in records.items()}

    def _objects(self) -> Iterator[dict[str, Any]]:
        return chain.from_iterable(self._objects_of)

    def _open(self, record: dict[str, Any]) -> Tensor:
        from torchvision.transforms.v2 import functional as F

        path = self.folder / record["file_name"]
        with reading(path, f"image {record['id']}, {path}, cannot be read: "):
            image = read(path, True, None, 1.0, self.bit_depth, self.exif == UPRIGHT)
            pixels = F.to_dtype(F.to_image(image), torch.uint8, scale=True)
        height, width = pixels.shape[-2:]
        if (height, width) != (record["height"], record["width"]):
            kind, detail = wrong_size(record, width, height)
            problem = Problem(kind, detail, record["file_name"], record["id"])
            raise AnnotationError(self.file, [problem], "Correct the file or remove the record.")
        return pixels.as_subclass(Tensor)

    def _check_masks(self, record: dict[str, Any], count: int) -> None:
        """Raises UnreadableImageError if an image's masks would not fit into memory."""
        height, width = record["height"], record["width"]
        needed, available = count * height * width, available_bytes()
        if available is not None and needed > available:
            path = self.folder / record["file_name"]
            raise UnreadableImageError(
                f"image {record['id']}, {path}, does not fit into memory: masks of {count} objects "
                f"on {height} x {width} pixels take {needed / 2**30:.1f} GiB, and "
                f"{available / 2**30:.1f} GiB are free; make it smaller, or cut it into tiles",
                path,
            )

    def _target(self, record: dict[str, Any], objects: list[dict[str, Any]]) -> Target:
        objects = [o for o in objects if self.include_crowd or not o["iscrowd"]]
        target: Target = {
            "boxes": _boxes(objects, record["width"], record["height"]),
            "labels": torch.tensor([self._label_of[o["category_id"]] for o in objects]).long(),
            "image_id": record["id"],
            "area": torch.tensor([o["area"] for o in objects], dtype=torch.float32),
            "iscrowd": torch.tensor([o["iscrowd"] for o in objects], dtype=torch.int64),
        }
        if self.masks:
            self._check_masks(record, len(objects))
            target["masks"] = _masks(objects, record["height"], record["width"])
        if self.keypoint_names:
            target["keypoints"] = _keypoints(objects, len(self.keypoint_names))
        return target


def _keypoint_names(categories: list[dict[str, Any]]) -> tuple[str, ...]:
    names = {tuple(category.get("keypoints", ())) for category in categories}
    if len({len(n) for n in names}) != 1 or () in names:
        raise ValueError(
            "keypoints=True needs categories that all name the same number of keypoints; "
            f"got {sorted(names)}"
        )
    return tuple(categories[0]["keypoints"])


def _boxes(objects: list[dict[str, Any]], width: int, height: int) -> Tensor:
    boxes = torch.tensor([o["bbox"] for o in objects], dtype=torch.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    boxes[:, 0::2].clamp_(0, width)
    boxes[:, 1::2].clamp_(0, height)
    return boxes


def _masks(objects: list[dict[str, Any]], height: int, width: int) -> Tensor:
    masks = np.zeros((len(objects), height, width), np.uint8)
    for mask, object_ in zip(masks, objects, strict=True):
        mask[:] = decode_mask(object_["segmentation"], height, width)
    return torch.from_numpy(masks)


def _keypoints(objects: list[dict[str, Any]], count: int) -> Tensor:
    rows = [o["keypoints"] for o in objects]
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, count, 3)


def _transform(transforms: Transforms, image: Tensor, target: Target) -> tuple[Tensor, Target]:
    """Calls the transforms with tv_tensors; returns plain tensors without empty boxes."""
    from torchvision import tv_tensors

    size = tuple(image.shape[-2:])
    target = dict(target)
    target["boxes"] = tv_tensors.BoundingBoxes(target["boxes"], format="XYXY", canvas_size=size)
    if "masks" in target:
        target["masks"] = tv_tensors.Mask(target["masks"])
    if "keypoints" in target:
        points, visibility = target["keypoints"].split([2, 1], dim=-1)
        target["keypoints"] = tv_tensors.KeyPoints(points, canvas_size=size)
        target["visibility"] = visibility
    image, target = transforms(tv_tensors.Image(image), target)
    target = {k: v.as_subclass(Tensor) if isinstance(v, Tensor) else v for k, v in target.items()}
    if "keypoints" in target:
        target["keypoints"] = torch.cat([target["keypoints"], target.pop("visibility")], dim=-1)
    boxes = target["boxes"]
    keep = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    target = {k: v[keep] if isinstance(v, Tensor) else v for k, v in target.items()}
    return image.as_subclass(Tensor), target
