"""Pascal VOC: an XML file for each image (http://host.robots.ox.ac.uk/pascal/VOC/voc2012/)."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bit_backbone.datasets.coco.document import Document
from bit_backbone.datasets.formats.building import TEST, Builder, ImageNames, first_of
from bit_backbone.utils.image_files import is_clutter, is_image

_ANNOTATIONS = "Annotations"
_IMAGES = ("JPEGImages", "images", "Images")
_SETS = Path("ImageSets") / "Main"
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def fits(root: Path) -> bool:
    """Whether a folder has XML files in Annotations, or in itself beside images."""
    folder = root / _ANNOTATIONS if (root / _ANNOTATIONS).is_dir() else root
    return root.is_dir() and next(_xml_files(folder), None) is not None


def has_part(root: Path, part: str) -> bool:
    """Whether ImageSets/Main lists this part."""
    return _list_of(root, part) is not None


def read(root: Path, part: str | None) -> Document:
    """Reads a data set, or the part of it that ImageSets/Main lists.

    Corners count from 1 and belong to the box, so a box from 1 to 2 is two pixels wide. If any
    corner of the data set is 0, corners count from 0, and the right and lower ones lie outside.
    If two corners are equal, the box is empty: annotation tools write this after an accidental
    click. A ``difficult`` object becomes a crowd: training and evaluation ignore it.

    Args:
        root: The folder: Annotations and JPEGImages, or XML files beside images.
        part: "train" (trainval, or train if there is no test), "test" (test, or val); None for the
            whole data set. Without lists, the whole is the training part.

    Raises:
        ValueError: A list names no image.
    """
    annotations = root / _ANNOTATIONS if (root / _ANNOTATIONS).is_dir() else root
    folder = first_of(root, _IMAGES) or root
    images = ImageNames(path.name for path in folder.iterdir() if is_image(path.name))
    sheets = [_parse(path) for path in sorted(_xml_files(annotations))]
    names = sorted({name for sheet in sheets for name in sheet.names()})
    builder = Builder(root, folder, names)
    origin = 0 if any(0 <= value < 1 for sheet in sheets for value in sheet.least()) else 1
    wanted = None if part is None else _listed(root, part)
    for sheet in sheets:
        if wanted is None or sheet.path.stem in wanted:
            _add(builder, sheet, images, origin)
    _report_unlisted(builder, root, part, wanted, {sheet.path.stem for sheet in sheets})
    return builder.document()


@dataclass(frozen=True)
class _Sheet:
    """One XML file. If it could not be read, it has no tree, and ``trouble`` is the reason."""

    path: Path
    tree: ElementTree.Element | None
    trouble: str = ""
    objects: list[ElementTree.Element] = field(default_factory=list)

    def names(self) -> Iterator[str]:
        return (name for o in self.objects if (name := _text(o, "name")))

    def least(self) -> list[float]:
        corners = [_corners(o) for o in self.objects]
        return [min(c[0], c[1]) for c in corners if c[0] is not None and c[1] is not None]


def _xml_files(folder: Path) -> Iterator[Path]:
    return (p for p in folder.glob("*.[xX][mM][lL]") if not is_clutter(p.name))


def _parse(path: Path) -> _Sheet:
    try:
        tree = ElementTree.fromstring(path.read_bytes())
    except (ElementTree.ParseError, OSError, ValueError, LookupError) as error:
        return _Sheet(path, None, str(error))
    return _Sheet(path, tree, objects=tree.findall("object"))


def _add(builder: Builder, sheet: _Sheet, images: ImageNames, origin: int) -> None:
    if sheet.tree is None:
        builder.report("no XML", f"should be an XML file: {sheet.trouble}", sheet.path.name)
        return
    said = (_text(sheet.tree, "filename") or "").replace("\\", "/").rpartition("/")[2]
    name = images.find(sheet.path.stem, said) or said or sheet.path.stem
    size = _number(sheet.tree, "size/width"), _number(sheet.tree, "size/height")
    image_id = builder.add_image(name, _whole(size))
    for element in sheet.objects:
        box, is_reversed = _box(_corners(element), origin)
        if is_reversed:
            detail, action = f"corners are exchanged: {_corners(element)}", "put in order"
            builder.report("corners", detail, name, image_id=image_id, action=action)
        label = _text(element, "name")
        category = builder.names.index(label) + 1 if label else None
        more: dict[str, Any] = {"iscrowd": 1} if _text(element, "difficult") == "1" else {}
        if polygons := [p for p in map(_points, element.findall("polygon")) if p]:
            more["segmentation"] = [[value - origin for value in points] for points in polygons]
        builder.add_object(image_id, category, box, **more)


def _whole(size: tuple[float | None, float | None]) -> tuple[int, int] | None:
    """Returns a size in whole pixels; None if it is missing or 0, as some tools write it."""
    width, height = size
    return (int(width), int(height)) if width and height else None


def _corners(element: ElementTree.Element) -> list[float | None]:
    return [_number(element, f"bndbox/{corner}") for corner in _CORNERS]


def _box(corners: list[float | None], origin: int) -> tuple[list[float | None], bool]:
    """Returns x, y, width, height, and whether the corners were exchanged."""
    if any(corner is None for corner in corners):
        return corners, False
    given: list[float] = [corner for corner in corners if corner is not None]
    left, right = sorted(given[0::2])
    top, bottom = sorted(given[1::2])
    width = right - left + origin if right > left else 0
    height = bottom - top + origin if bottom > top else 0
    return [left - origin, top - origin, width, height], [left, top, right, bottom] != given


def _points(polygon: ElementTree.Element) -> list[float]:
    """Returns x1, y1, x2, y2, ... of a polygon, an extension that some tools write."""
    try:
        return [float(point.text or "") for point in polygon]
    except ValueError:
        return []


def _text(element: ElementTree.Element, path: str) -> str | None:
    text = element.findtext(path)
    return text.strip() if text is not None and text.strip() else None


def _number(element: ElementTree.Element, path: str) -> float | None:
    try:
        value = float(_text(element, path) or "")
    except ValueError:
        return None
    return int(value) if value.is_integer() else value


def _list_of(root: Path, part: str) -> Path | None:
    """Returns the list of a part: test or else val for "test", a list without it for "train"."""
    lists = root / _SETS
    test = first_of(lists, ("test.txt", "val.txt"))
    if part == TEST:
        return test
    train = ("trainval.txt", "train.txt")
    return first_of(lists, train if test is None or test.stem == "test" else train[1:])


def _listed(root: Path, part: str) -> set[str] | None:
    path = _list_of(root, part)
    if path is None:
        return set() if part == TEST else None
    lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    return {_stem(line) for line in lines if line}


def _stem(line: str) -> str:
    """Returns the name in a line of a list, without its suffix and a flag such as -1."""
    name, _, flag = line.rpartition(" ")
    name = name.rstrip() if flag in ("1", "0", "-1") and name else line
    base = name.replace("\\", "/").rpartition("/")[2]
    return base.rpartition(".")[0] if is_image(base) else base


def _report_unlisted(
    builder: Builder, root: Path, part: str | None, wanted: set[str] | None, there: set[str]
) -> None:
    for name in sorted((wanted or set()) - there):
        path = _list_of(root, str(part))
        detail = f"{path} lists it, and {root} has no {name}.xml"
        builder.report("missing annotations", detail, name)
