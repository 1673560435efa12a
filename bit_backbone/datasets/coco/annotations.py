"""Reads a COCO annotation file and reports everything that is wrong with it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from bit_backbone.datasets.coco.document import Document
from bit_backbone.datasets.coco.headers import size_problems
from bit_backbone.datasets.coco.problems import (
    ORIENTATIONS,
    POLICIES,
    UPRIGHT,
    AnnotationError,
    Problem,
)
from bit_backbone.datasets.coco.repair import repair
from bit_backbone.datasets.coco.rules import (
    attribute_problems,
    box_problems,
    category_problems,
    id_problems,
    image_problems,
    is_id,
    keypoint_problems,
    segmentation_problems,
)
from bit_backbone.utils.ways_out import either, passing


@dataclass
class Annotations:
    """The valid records of an annotation file, unchanged.

    Attributes:
        images: The images, in the file's order.
        by_image: The annotations of each image id, with "area" and "iscrowd" filled in. If
            keypoints are requested, crowds have keypoints of 0, and all have "num_keypoints".
        categories: The categories, by ascending id.
        others: Categories left out when the data set was aligned to another.
        problems: What was repaired or left out, and why.
    """

    images: list[dict[str, Any]] = field(default_factory=list)
    by_image: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    categories: list[dict[str, Any]] = field(default_factory=list)
    others: list[dict[str, Any]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def objects(self) -> Iterator[dict[str, Any]]:
        """Iterates over the annotations of all images."""
        return chain.from_iterable(self.by_image.values())


def read_annotations(file: Path, images: Path, **options: Any) -> Annotations:
    """Reads and checks an annotation file; ``options`` are those of ``check_document``."""
    return check_document(Document(file, images, load(file)), **options)


def check_document(
    document: Document,
    *,
    masks: bool = False,
    keypoints: bool = False,
    on_invalid: str = POLICIES[0],
    exif: str = UPRIGHT,
) -> Annotations:
    """Checks annotations, and the sizes of their images by the headers.

    Args:
        document: The content of the annotation file.
        masks: Require a segmentation of every object, and check it.
        keypoints: Require keypoints of every object except crowds, and check them.
        on_invalid: "repair" what can be repaired without guessing, and raise an error that lists
            the rest; "raise" an error that lists every problem; or "skip" records with a problem (a
            skipped image takes its annotations with it). The result's ``problems`` list what was
            repaired or skipped.
        exif: "upright" where images were annotated as people see them, turned by their EXIF
            orientation; "stored" where they were annotated as they are stored.

    Raises:
        AnnotationError: There are problems that ``on_invalid`` does not deal with, or a category
            is wrong.
        ValueError: ``on_invalid`` or ``exif`` is something else.
    """
    _check_choice("on_invalid", on_invalid, POLICIES)
    _check_choice("exif", exif, ORIENTATIONS)
    if on_invalid == "repair":
        document = repair(document, masks, exif == UPRIGHT)
    file, content = document.file, document.content
    reader = _Reader(file, document.folder, masks, keypoints)
    reader.found.problems += document.problems
    reader.read_categories(content["categories"])
    wrong = reader.found.problems[len(document.problems) :]
    if wrong:
        raise AnnotationError(file, wrong, "A category cannot be skipped.")
    reader.read_images(content["images"])
    reader.check_sizes(exif == UPRIGHT)
    reader.read_annotations(content["annotations"])
    left = [problem for problem in reader.found.problems if not problem.action]
    if on_invalid == "raise":
        left = reader.found.problems
    if left and on_invalid != "skip":
        ways = [passing("on_invalid", "skip", "to continue without these records")]
        if on_invalid == "raise":
            ways.append(passing("on_invalid", "repair", "to correct those that can be"))
        raise AnnotationError(file, left, either("Correct the file", *ways) + ".")
    return reader.found


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        listed = ", ".join(f'"{choice}"' for choice in choices)
        raise ValueError(f"{name} should be one of {listed}; got {value!r}")


def load(file: Path) -> dict[str, Any]:
    """Reads an annotation file without checking its records.

    Raises:
        AnnotationError: The file is not a JSON object of lists of images, annotations, categories.
    """
    try:
        content = json.loads(file.read_bytes())
    except OSError as error:
        _reject(file, "unreadable file", str(error))
    except (ValueError, RecursionError) as error:
        _reject(file, "no JSON", str(error))
    for key in ("images", "annotations", "categories"):
        records = content.get(key) if isinstance(content, dict) else None
        if not isinstance(records, list) or not all(isinstance(r, dict) for r in records):
            _reject(file, "no COCO file", f"should be an object with a list of objects {key!r}")
    return content


def _reject(file: Path, kind: str, detail: str) -> None:
    raise AnnotationError(file, [Problem(kind, detail, file.name)], "This cannot be skipped.")


class _Reader:
    """Sorts the records of one file into valid ones and problems."""

    def __init__(self, file: Path, images: Path, masks: bool, keypoints: bool) -> None:
        self.file = file
        self.folder = images
        self.masks = masks
        self.keypoints = keypoints
        self.found = Annotations()
        self.num_keypoints: dict[int, int] = {}
        self.sizes: dict[int, tuple[int, int]] = {}  # of valid images: width, height
        self.names: dict[int, str] = {}  # of all images

    def read_categories(self, records: list[dict[str, Any]]) -> None:
        seen: set[int] = set()
        for record in records:
            problems = list(category_problems(record, seen))
            self._report(problems, self.file.name)
            if not problems:
                seen.add(record["id"])
                self.num_keypoints[record["id"]] = len(record.get("keypoints", ()))
                self.found.categories.append(record)
        if not records:
            self._report([("no categories", "should have at least one")], self.file.name)
        self.found.categories.sort(key=lambda record: record["id"])

    def read_images(self, records: list[dict[str, Any]]) -> None:
        for record in records:
            problems = list(image_problems(record, self.names, self.folder))
            image_id: Any = record.get("id")
            name: Any = record.get("file_name")
            named = isinstance(name, str) and name
            self._report(problems, name if named else self.file.name, image_id)
            if not problems:
                self.sizes[image_id] = record["width"], record["height"]
                self.found.images.append(record)
                self.found.by_image[image_id] = []
            if is_id(image_id):
                self.names.setdefault(image_id, str(name))

    def check_sizes(self, upright: bool) -> None:
        """Rejects images whose file has another size; call it before reading annotations."""
        images, self.found.images = self.found.images, []
        for record, problems in size_problems(images, self.folder, upright):
            image_id = record["id"]
            self._report(problems, record["file_name"], image_id)
            if problems:
                del self.sizes[image_id], self.found.by_image[image_id]
            else:
                self.found.images.append(record)

    def read_annotations(self, records: list[dict[str, Any]]) -> None:
        seen: set[int] = set()
        for record in records:
            image_id: Any = record.get("image_id")
            problems = list(id_problems(record, seen))
            if not is_id(image_id) or image_id not in self.names:
                problems.append(("unknown image", f"image_id {image_id!r} should be in images"))
            elif image_id in self.sizes:  # otherwise the image is already reported
                problems += self._object_problems(record, *self.sizes[image_id])
            name = self.names.get(image_id, self.file.name) if is_id(image_id) else self.file.name
            self._report(problems, name, image_id, record.get("id"))
            if not problems:
                seen.add(record["id"])
                if image_id in self.sizes:
                    self.found.by_image[image_id].append(self._complete(record))

    def _object_problems(
        self, record: dict[str, Any], width: int, height: int
    ) -> Iterator[tuple[str, str]]:
        category: Any = record.get("category_id")
        known = is_id(category) and category in self.num_keypoints
        if not known:
            legal = f"should be one of {sorted(self.num_keypoints)}"
            yield "unknown category", f"category_id {category!r} {legal}"
        yield from box_problems(record.get("bbox"), width, height)
        yield from attribute_problems(record)
        if self.masks:
            yield from segmentation_problems(record.get("segmentation"), width, height)
        if self.keypoints and known and record.get("iscrowd", 0) != 1:
            yield from keypoint_problems(record.get("keypoints"), self.num_keypoints[category])

    def _report(
        self,
        problems: list[tuple[str, str]],
        file: str,
        image_id: Any = None,
        annotation_id: Any = None,
    ) -> None:
        self.found.problems += [
            Problem(kind, detail, file, image_id, annotation_id) for kind, detail in problems
        ]

    def _complete(self, record: dict[str, Any]) -> dict[str, Any]:
        width, height = record["bbox"][2:]
        record = {"area": width * height, "iscrowd": 0} | record
        if self.keypoints:
            count = self.num_keypoints[record["category_id"]]
            points = [0] * 3 * count if record["iscrowd"] else record["keypoints"]
            record |= {"keypoints": points, "num_keypoints": sum(v > 0 for v in points[2::3])}
        return record
