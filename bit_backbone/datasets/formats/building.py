"""Builds a document in COCO's structure from a data set of another format."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bit_backbone.datasets.coco.document import Document
from bit_backbone.datasets.coco.problems import Problem
from bit_backbone.utils.image_files import IMAGE_SUFFIXES

TRAIN, TEST = "train", "test"
FORMATS = ("coco", "voc", "yolo")
PARTS = (TRAIN, TEST)


@dataclass
class Builder:
    """Collects a document, and gives ids to images, objects and categories.

    Args:
        file: The data set's name in messages.
        folder: The folder of its images.
        names: Names of the categories, id 1 first.
        keypoints: Names of the keypoints, the same for every category.
    """

    file: Path
    folder: Path
    names: list[str]
    keypoints: tuple[str, ...] = ()
    images: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def add_image(self, name: str, size: tuple[Any, Any] | None) -> int:
        """Adds an image, and returns its id; if ``size`` is None, the file's size is used."""
        record: dict[str, Any] = {"id": len(self.images) + 1, "file_name": name}
        if size is not None:
            record |= {"width": size[0], "height": size[1]}
        self.images.append(record)
        return int(record["id"])

    def add_object(self, image_id: int, category_id: Any, box: list[Any], **more: Any) -> None:
        """Adds an object to an image; ``box`` is x, y, width, height."""
        record = {"id": len(self.annotations) + 1, "image_id": image_id, "category_id": category_id}
        record |= {"bbox": box, "iscrowd": 0} | more
        if None not in box:
            record["area"] = box[2] * box[3]
        self.annotations.append(record)

    def report(self, kind: str, detail: str, file: str, **more: Any) -> None:
        """Adds a problem."""
        self.problems.append(Problem(kind, detail, file, **more))

    def document(self) -> Document:
        """Returns the collected document."""
        more = {"keypoints": list(self.keypoints)} if self.keypoints else {}
        categories = [{"id": i, "name": name, **more} for i, name in enumerate(self.names, 1)]
        content = {
            "images": self.images, "annotations": self.annotations, "categories": categories
        }  # fmt: skip
        return Document(self.file, self.folder, content, tuple(self.problems))


class ImageNames:
    """Finds the images of a folder, even if a name has another suffix or differs in case.

    Args:
        names: Names of the files.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._exact = dict.fromkeys(names)
        self._by_stem: dict[str, str] = {}
        for name in sorted(self._exact, key=_suffix_rank, reverse=True):
            self._by_stem[name.rpartition(".")[0].lower()] = name

    def find(self, *wanted: str) -> str | None:
        """Returns the first image with one of these names, with or without its suffix."""
        for name in wanted:
            if name in self._exact:
                return name
            stem, _, ending = name.rpartition(".")
            known = f".{ending.lower()}" in IMAGE_SUFFIXES
            found = self._by_stem.get((stem if known else name).lower())
            if found is not None:
                return found
        return None


def _suffix_rank(name: str) -> tuple[int, str]:
    """Returns a sort key for images that share a name: JPEG first, then by name."""
    return (0 if name.lower().endswith((".jpg", ".jpeg")) else 1, name)


def first_of(folder: Path, names: Iterable[str]) -> Path | None:
    """Returns the first of these names that exists in a folder."""
    return next((folder / name for name in names if (folder / name).exists()), None)


def named(values: Mapping[Any, Any] | Iterable[Any]) -> list[str]:
    """Returns the names of classes 0, 1, ..., given as a list or by number.

    Raises:
        ValueError: The numbers have gaps.
    """
    if not isinstance(values, Mapping):
        return [str(value) for value in values]
    by_number = {int(number): str(name) for number, name in values.items()}
    if sorted(by_number) != list(range(len(by_number))):
        raise ValueError(f"names are numbered 0, 1, 2, ... without gaps; got {sorted(by_number)}")
    return [by_number[number] for number in range(len(by_number))]
