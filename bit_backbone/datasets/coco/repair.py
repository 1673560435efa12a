"""Repairs annotations of other tools so that they follow COCO's rules.

Records without a problem are not changed. Records that cannot be repaired are left as they are;
the checks of the rules report them.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from bit_backbone.datasets.coco.document import Document
from bit_backbone.datasets.coco.file_names import FileNames
from bit_backbone.datasets.coco.headers import sizes
from bit_backbone.datasets.coco.problems import Problem
from bit_backbone.datasets.coco.rules import THINNEST, box_problems, is_id

Record = dict[str, Any]
SMALLEST_POLYGON = 6  # numbers: three points


def repair(document: Document, masks: bool = False, upright: bool = True) -> Document:
    """Returns a document whose records are repaired as far as possible without guessing.

    Its ``problems`` list every repair, with the action.

    Args:
        document: The content of the file.
        masks: Whether every object needs a mask; objects without a polygon are then left out.
        upright: Whether missing sizes are read from images turned by their EXIF orientation.
    """
    repairer = _Repairer(document, masks, upright)
    content = document.content
    categories = [record | {"id": _whole(record.get("id"))} for record in content["categories"]]
    images = repairer.images([dict(record) for record in content["images"]])
    annotations = repairer.annotations([dict(record) for record in content["annotations"]])
    content = content | {"images": images, "annotations": annotations, "categories": categories}
    return replace(document, content=content, problems=(*document.problems, *repairer.problems))


class _Repairer:
    """Repairs the records of one document."""

    def __init__(self, document: Document, masks: bool, upright: bool) -> None:
        self.document, self.masks, self.upright = document, masks, upright
        self.problems: list[Problem] = []
        self.ids: dict[Any, int] = {}  # of images: the written id, and the present one
        self.names: dict[Any, str] = {}
        self.sizes: dict[Any, tuple[int, int]] = {}

    def images(self, records: list[Record]) -> list[Record]:
        self._number_images(records)
        self._find_files(records)
        self._fill_in_sizes(records)
        records = [record for record in records if not self._is_unreadable(record)]
        for record in records:
            if is_id(record.get("id")) and _is_size(record):
                self.sizes[record["id"]] = record["width"], record["height"]
        return records

    def annotations(self, records: list[Record]) -> list[Record]:
        kept = [record for record in records if self._annotation(record)]
        self._number_annotations(kept)
        for name, taken in (("iscrowd", "taken as 0"), ("area", "taken from the box")):
            absent = [record for record in kept if record.get(name) is None]
            for record in absent:
                record.pop(name, None)  # filled in later, as for valid files
            if absent:
                detail = f"{len(absent)} annotations have none"
                self._note(f"missing {name}", detail, self.document.file.name, taken)
        return kept

    def _number_images(self, records: list[Record]) -> None:
        """Makes ids integers: converts whole floats and digit strings, numbers other strings."""
        written = [record.get("id") for record in records]
        read = [_whole(value) for value in written]
        free = max(filter(is_id, read), default=0)
        for record, value, number in zip(records, written, read, strict=True):
            if is_id(value) or not (is_id(number) or isinstance(value, str)):
                continue
            if not is_id(number) and value not in self.ids:
                free += 1
            record["id"] = self.ids.setdefault(value, number if is_id(number) else free)
            detail, action = f"id should be an integer; got {value!r}", f"taken as {record['id']}"
            self._image_note("string id", detail, action, record)

    def _find_files(self, records: list[Record]) -> None:
        files = FileNames(self.document.folder, [record.get("file_name") for record in records])
        for record in records:
            said = record.get("file_name")
            found = files.find(said)
            if found is not None and found != said:
                record["file_name"] = found
                detail = f"file_name should be a path below {self.document.folder}; got {said!r}"
                self._image_note("file name", detail, f"taken as {found}", record)
            if is_id(record.get("id")):
                self.names.setdefault(record["id"], str(record.get("file_name")))

    def _fill_in_sizes(self, records: list[Record]) -> None:
        for record in records:
            self._read_numbers(record, ("width", "height"), self._where(record))
        wanting = [r for r in records if r.get("width") is None or r.get("height") is None]
        found = sizes(wanting, self.document.folder, self.upright)
        for record, size in zip(wanting, found, strict=True):
            if size is not None:
                record["width"], record["height"] = size
                action = f"taken from the file: {size[0]}x{size[1]}"
                self._image_note("missing size", "width and height are missing", action, record)

    def _is_unreadable(self, record: Record) -> bool:
        """Whether a file exists but its size cannot be read; such an image is left out."""
        path = self.document.folder / str(record.get("file_name"))
        if record.get("width") is not None or not path.is_file():
            return False
        self._image_note("unreadable image", "its size cannot be read", "left out", record)
        self.sizes[record.get("id")] = (0, 0)
        return True

    def _annotation(self, record: Record) -> bool:
        """Repairs an annotation; returns False if it must be left out."""
        self._resolve(record)
        image_id = record.get("image_id")
        where = self._where_object(record)
        record["category_id"] = _whole(record.get("category_id"))
        self._read_numbers(record, ("area", "iscrowd"), where)
        self._read_box_numbers(record, where)
        if not self._segmentation(record, where):
            return False
        size = self.sizes.get(image_id) if _hashable(image_id) else None
        if size == (0, 0):
            return False  # its image is left out too
        return size is None or self._box(record, size, where)

    def _resolve(self, record: Record) -> None:
        """Gives an annotation the new id of its image."""
        value = record.get("image_id")
        if _hashable(value) and not (is_id(value) and value in self.names):
            number = self.ids.get(value, self.ids.get(str(value), _whole(value)))
            if is_id(number) and number in self.names:
                record["image_id"] = number

    def _read_box_numbers(self, record: Record, where: Record) -> None:
        box = record.get("bbox")
        if isinstance(box, list) and any(isinstance(value, str) for value in box):
            read = [_number(value) for value in box]
            if not any(isinstance(value, str) for value in read):
                record["bbox"] = read
                self._add("string number", f"bbox should be numbers; got {box!r}", "read", where)

    def _box(self, record: Record, size: tuple[int, int], where: Record) -> bool:
        for kind, detail in box_problems(record.get("bbox"), *size):
            if kind == "empty box":
                self._add(kind, detail, "left out", where)
                return False
            if kind == "box outside" and (box := _clipped(record["bbox"], *size)) is not None:
                if record.get("area") == record["bbox"][2] * record["bbox"][3]:
                    record["area"] = box[2] * box[3]
                record["bbox"] = box
                self._add(kind, detail, f"clipped to {box}", where)
        return True

    def _segmentation(self, record: Record, where: Record) -> bool:
        """Repairs a mask; returns False if a required mask is missing."""
        value = record.get("segmentation")
        if not isinstance(value, list) or not value:
            return True
        if len(value) == 1 and isinstance(value[0], dict):
            record["segmentation"] = value[0]
            self._add("list of one RLE", "segmentation should be RLE itself", "taken out", where)
            return True
        if all(isinstance(item, (int, float)) for item in value):
            record["segmentation"] = value = [value]
            detail = "segmentation should be a list of polygons"
            self._add("flat polygon", detail, "taken as one", where)
        if all(isinstance(polygon, list) for polygon in value):
            kept = [polygon for polygon in value if len(polygon) >= SMALLEST_POLYGON]
            if len(kept) < len(value) and (kept or self.masks):
                record["segmentation"] = kept
                detail = f"a polygon should have 3 points; {len(value) - len(kept)} have fewer"
                action = "left out" if kept else "left out with its object"
                self._add("short polygon", detail, action, where)
                return bool(kept)
        return True

    def _number_annotations(self, records: list[Record]) -> None:
        """Numbers annotations whose id is missing, not an integer, or taken."""
        free = max((r["id"] for r in records if is_id(r.get("id"))), default=0)
        seen: set[int] = set()
        for record in records:
            value = record.get("id")
            if not is_id(value) or value in seen:
                free += 1
                record["id"] = free
                kind = "repeated id" if is_id(value) else "missing id"
                where = self._where_object(record) | {"annotation_id": value}
                detail = f"id should be an integer of its own; got {value!r}"
                self._add(kind, detail, f"numbered {free}", where)
            seen.add(record["id"])

    def _read_numbers(self, record: Record, names: tuple[str, ...], where: Record) -> None:
        for name in names:
            value = record.get(name)
            number = _number(value)
            if number is not value:
                record[name] = number  # or 7.0, which is 7 in other languages
                if isinstance(value, str):
                    detail = f"{name} should be a number; got {value!r}"
                    self._add("string number", detail, "read", where)

    def _where_object(self, record: Record) -> Record:
        image_id = record.get("image_id")
        name = self.names.get(image_id) if _hashable(image_id) else None
        file = self.document.file.name if name is None else name
        return {"file": file, "image_id": image_id, "annotation_id": record.get("id")}

    def _where(self, record: Record) -> Record:
        name = record.get("file_name")
        file = name if isinstance(name, str) and name else self.document.file.name
        return {"file": file, "image_id": record.get("id")}

    def _image_note(self, kind: str, detail: str, action: str, record: Record) -> None:
        self._add(kind, detail, action, self._where(record))

    def _note(self, kind: str, detail: str, file: str, action: str) -> None:
        self.problems.append(Problem(kind, detail, file, action=action))

    def _add(self, kind: str, detail: str, action: str, where: Record) -> None:
        self.problems.append(Problem(kind, detail, action=action, **where))


def _clipped(box: list[float], width: int, height: int) -> list[float] | None:
    """Clips a box to the image; returns None if it lies outside."""
    left, top = max(box[0], 0), max(box[1], 0)
    right, bottom = min(box[0] + box[2], width), min(box[1] + box[3], height)
    if right - left < THINNEST or bottom - top < THINNEST:
        return None
    return [left, top, right - left, bottom - top]


def _number(value: Any) -> Any:
    """Converts a string or a whole float to a number; returns other values unchanged."""
    whole = _whole(value)
    if not isinstance(whole, str):
        return whole
    try:
        read = float(whole)
    except ValueError:
        return value
    return _whole(read) if math.isfinite(read) else value


def _whole(value: Any) -> Any:
    """Converts a string of digits or a whole float to an integer; returns others unchanged."""
    if isinstance(value, str):
        digits = value.strip()
        return int(digits) if digits.removeprefix("-").isdecimal() else value
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _is_size(record: Record) -> bool:
    return all(is_id(record.get(side)) and record[side] > 0 for side in ("width", "height"))


def _hashable(value: Any) -> bool:
    return isinstance(value, (int, str, float))
