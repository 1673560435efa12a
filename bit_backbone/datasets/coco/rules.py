"""The rules that COCO annotations must follow.

Each function takes a record, or a part of one, and yields (kind, detail) for every broken rule. The
kind has two or three words; the detail states the rule and the value.
"""

import os
from collections.abc import Container, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from bit_backbone.datasets.coco.masks import parse_runs

# Annotators round: a box may leave its image by this many pixels before it counts as outside.
BORDER = 1.0
THINNEST = 0.01  # pixels; thinner boxes can vanish in float32
LARGEST = 1e9  # of any number; JSON integers can be too large for a float


def category_problems(record: dict[str, Any], seen: Container[int]) -> Iterator[tuple[str, str]]:
    """Checks an entry of ``categories``; ``seen`` holds the ids so far."""
    yield from id_problems(record, seen)
    if not isinstance(record.get("name"), str):
        yield "bad category", f"name should be a string; got {record.get('name')!r}"
    keypoints = record.get("keypoints", [])
    if not isinstance(keypoints, list) or not all(isinstance(k, str) for k in keypoints):
        yield "bad category", f"keypoints should be a list of strings; got {keypoints!r}"


def image_problems(
    record: dict[str, Any], seen: Container[int], folder: Path
) -> Iterator[tuple[str, str]]:
    """Checks an entry of ``images`` and that ``folder`` has its file; ``seen`` holds the ids."""
    yield from id_problems(record, seen)
    name = record.get("file_name")
    if not isinstance(name, str) or not name:
        yield "bad image", f"file_name should be a string; got {name!r}"
    elif PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        yield "bad image", f"file_name should lie below {folder}; got {name!r}"
    elif not os.path.isfile(folder / name):
        yield "missing file", f"{folder / name} should be a file"
    size: tuple[Any, Any] = record.get("width"), record.get("height")
    if not all(is_id(side) and side > 0 for side in size):
        yield "bad image", f"width and height should be integers above 0; got {size}"


def id_problems(record: dict[str, Any], seen: Container[int]) -> Iterator[tuple[str, str]]:
    """Checks that a record has an integer id that is not in ``seen``."""
    value = record.get("id")
    if not is_id(value):
        yield "bad id", f"id should be an integer; got {value!r}"
    elif value in seen:
        yield "duplicate id", f"id {value} is used more than once"


def box_problems(box: Any, width: int, height: int) -> Iterator[tuple[str, str]]:
    """Checks a ``bbox`` of x, y, width, height in an image of this size in pixels."""
    if not _are_numbers(box) or len(box) != 4:
        yield "bad box", f"bbox should be 4 finite numbers; got {box!r}"
        return
    left, top, right, bottom = box[0], box[1], box[0] + box[2], box[1] + box[3]
    inside = min(left, top) >= -BORDER and right <= width + BORDER and bottom <= height + BORDER
    if min(box[2:]) < THINNEST:
        yield "empty box", f"bbox should have width and height above 0; got {box}"
    elif not inside:
        yield "box outside", f"bbox should lie in the image of {width}x{height}; got {box}"
    elif min(min(right, width) - max(left, 0), min(bottom, height) - max(top, 0)) < THINNEST:
        yield "empty box", f"bbox is empty when clipped to the image of {width}x{height}; got {box}"


def attribute_problems(record: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Checks ``area`` and ``iscrowd`` where an annotation has them."""
    area, crowd = record.get("area", 0), record.get("iscrowd", 0)
    if not _are_numbers([area]) or area < 0:
        yield "bad area", f"area should be a number of at least 0; got {area!r}"
    if crowd not in (0, 1):
        yield "bad iscrowd", f"iscrowd should be 0 or 1; got {crowd!r}"


def segmentation_problems(value: Any, width: int, height: int) -> Iterator[tuple[str, str]]:
    """Checks a mask: run lengths must fill the image, and polygons must lie near it."""
    if isinstance(value, dict):
        yield from _run_problems(value, width, height)
    elif not isinstance(value, list) or not value or not all(map(_is_polygon, value)):
        yield "bad mask", "segmentation should be RLE or polygons of at least 3 points"
    elif not all(_is_near(polygon, width, height) for polygon in value):
        # pycocotools walks along every edge, pixel by pixel.
        yield "bad mask", f"polygons should lie about the image of {width}x{height}"


def _run_problems(rle: dict[str, Any], width: int, height: int) -> Iterator[tuple[str, str]]:
    runs = rle.get("counts")
    if isinstance(runs, str):
        try:
            runs = parse_runs(runs)
        except ValueError as error:
            yield "bad mask", str(error)
            return
    if rle.get("size") != [height, width]:
        yield "bad mask", f"size should be [{height}, {width}]; got {rle.get('size')}"
    elif not isinstance(runs, list) or not all(is_id(run) and run >= 0 for run in runs):
        yield "bad mask", "counts should be a string or a list of integers of at least 0"
    elif sum(runs) != width * height:
        yield "bad mask", f"counts should add up to {width * height}; got {sum(runs)}"


def _is_polygon(value: Any) -> bool:
    return _are_numbers(value) and len(value) >= 6 and len(value) % 2 == 0


def _is_near(polygon: list[float], width: int, height: int) -> bool:
    """Whether a polygon stays within one image size of the image's borders."""
    return all(-width <= x <= 2 * width for x in polygon[0::2]) and all(
        -height <= y <= 2 * height for y in polygon[1::2]
    )


def keypoint_problems(value: Any, count: int) -> Iterator[tuple[str, str]]:
    """Checks the keypoints of an object whose category has ``count`` of them."""
    if not count:
        yield "bad keypoints", "its category should name its keypoints"
    elif not _are_numbers(value) or len(value) != 3 * count:
        yield "bad keypoints", f"keypoints should be {count} times x, y, visibility; got {value!r}"
    elif not all(v in (0, 1, 2) for v in value[2::3]):
        yield "bad keypoints", f"visibilities should be 0, 1 or 2; got {value[2::3]}"


def _are_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(x, (int, float)) and not isinstance(x, bool) and abs(x) < LARGEST for x in value
    )


def is_id(value: Any) -> bool:
    """Whether a value is an integer, as ids and sizes must be."""
    return isinstance(value, int) and not isinstance(value, bool)
