"""YOLO (https://docs.ultralytics.com/datasets): a text file per image, a line per object."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bit_backbone.datasets.coco.document import Document
from bit_backbone.datasets.coco.headers import size_of
from bit_backbone.datasets.formats.building import TEST, Builder, first_of, named
from bit_backbone.datasets.formats.keypoints import DIGITS, Keypoints, keypoints_of, to_pixels
from bit_backbone.utils.image_files import has_clutter, is_image

_NAME_FILES = ("classes.txt", "obj.names", "labels.txt")


def fits(root: Path) -> bool:
    """Whether a path is a data.yaml, or a folder with one or with class names and labels."""
    if root.is_file():
        return root.suffix.lower() in (".yaml", ".yml") and _settings(root) is not None
    return root.is_dir() and (_yaml_of(root) is not None or _names_file(root) is not None)


def has_part(root: Path, part: str) -> bool:
    """Whether data.yaml names this part."""
    layout = _layout(root)
    return layout is not None and bool(layout.sources(part))


def read(root: Path, part: str | None, upright: bool = True) -> Document:
    """Reads a data set, or a part of it.

    A line is a class and a box (centre, width, height), or a polygon, in fractions of the upright
    image. Keypoints follow the box if data.yaml has a ``kpt_shape``. An image without a label file
    has no objects.

    Args:
        root: A data.yaml, a folder that holds one, or a folder with images and labels and a file of
            class names (classes.txt).
        part: "train" or "test" (test, or else val); None for the whole data set.
        upright: Whether the fractions refer to the image turned by its EXIF orientation.

    Raises:
        ValueError: The file is not a data.yaml, or names a folder that does not exist.
    """
    layout = _layout(root)
    if layout is None:
        raise ValueError(f"a YOLO data set needs a data.yaml or a classes.txt; {root} has neither")
    listed = [image for source in layout.sources(part) for image in _images(layout, source)]
    images = list(dict.fromkeys(Path(os.path.abspath(image)) for image in listed))
    parents = [str(image.parent) for image in images]
    folder = Path(os.path.commonpath(parents)) if parents else layout.base
    builder = Builder(layout.file, folder, layout.names, layout.keypoints.names)
    for image in images:
        _add(builder, image, layout.keypoints, upright)
    return builder.document()


@dataclass(frozen=True)
class _Layout:
    """The files and names of a data set.

    Attributes:
        file: The data.yaml, or the file of class names.
        base: The folder that paths are relative to.
        names: Names of the classes.
        parts: The entries "train", "val" and "test" of data.yaml.
        keypoints: The keypoints of every object.
    """

    file: Path
    base: Path
    names: list[str]
    parts: dict[str, list[str]]
    keypoints: Keypoints = field(default_factory=Keypoints)

    def sources(self, part: str | None) -> list[str]:
        """Returns the folders and lists of a part."""
        if part is None:
            return [source for sources in self.parts.values() for source in sources]
        return self.parts["test"] or self.parts["val"] if part == TEST else self.parts["train"]


def _layout(root: Path) -> _Layout | None:
    path = root if root.is_file() else _yaml_of(root)
    settings = None if path is None else _settings(path)
    if path is None or settings is None:
        names_file = _names_file(root)
        if names_file is None:
            return None
        names = [n.strip() for n in names_file.read_text("utf-8-sig").splitlines() if n.strip()]
        return _Layout(names_file, root, names, {"train": ["."], "val": [], "test": []})
    try:
        names = named(settings["names"])
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: names should be a list of class names: {error}") from error
    parts = {part: _listed(settings.get(part)) for part in ("train", "val", "test")}
    return _Layout(path, _base(path, settings), names, parts, keypoints_of(path, settings))


def _yaml_of(folder: Path) -> Path | None:
    found = [p for p in sorted(folder.glob("*.y*ml")) if _settings(p) is not None]
    return next((p for p in found if p.stem == "data"), found[0] if found else None)


def _settings(path: Path) -> dict[str, Any] | None:
    """Returns the content of a data.yaml, or None if the file is not one."""
    import yaml

    try:
        content = yaml.safe_load(path.read_bytes())
    except (yaml.YAMLError, OSError, ValueError, RecursionError):
        return None
    is_data = isinstance(content, dict) and "names" in content
    return content if is_data and {"train", "val", "test"} & content.keys() else None


def _names_file(folder: Path) -> Path | None:
    """Returns the file of class names in a folder, if it also has labels."""
    path = first_of(folder, _NAME_FILES) if folder.is_dir() else None
    if path is None or (folder / "labels").is_dir():
        return path
    beside = (p for p in folder.glob("*.txt") if p.name not in _NAME_FILES)
    return (
        path if any(is_image(q.name) for p in beside for q in folder.glob(f"{p.stem}.*")) else None
    )


def _base(path: Path, settings: dict[str, Any]) -> Path:
    """Returns the folder of the paths: "path", or data.yaml's own if that has no images."""
    said = Path(str(settings.get("path") or "."))
    candidates = [said if said.is_absolute() else path.parent / said, path.parent]
    first = [_listed(settings.get(part)) for part in ("train", "val", "test")]
    sources = [source for part in first for source in part]
    for base in candidates:
        if any((base / source).exists() for source in sources):
            return base
    return path.parent


def _listed(value: Any) -> list[str]:
    if value is None or value == "":
        return []
    return [str(v) for v in value] if isinstance(value, list) else [str(value)]


def _images(layout: _Layout, source: str) -> list[Path]:
    """Returns the images of a folder or of a list file, in order."""
    path = _existing(layout, source)
    if path.is_dir():
        below = (p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file())
        return [path / n for n in sorted(below) if is_image(n) and not has_clutter(n)]
    lines = [line.strip() for line in path.read_text("utf-8-sig").splitlines() if line.strip()]
    # Lines that begin with ./ are relative to the list, others to the base.
    return [(path.parent if line.startswith("./") else layout.base) / line for line in lines]


def _existing(layout: _Layout, source: str) -> Path:
    # Some exports write ../train/images for a folder beside data.yaml.
    inner = source.removeprefix("../")
    places = [base / s for base in (layout.base, layout.file.parent) for s in (source, inner)]
    for place in places:
        if place.exists():
            return place
    raise ValueError(
        f"{layout.file} names {source}, and there is no {places[0]}; correct the file, or its path"
    )


def _add(builder: Builder, image: Path, keypoints: Keypoints, upright: bool) -> None:
    size = size_of(image, upright)  # None if unreadable; checks or repair report it
    name = image.relative_to(builder.folder).as_posix()
    image_id = builder.add_image(name, size)
    labels = _labels_of(image)
    if labels is None or size is None:
        return
    try:
        lines = labels.read_text("utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        builder.report("no labels", f"{labels} cannot be read: {error}", name, image_id=image_id)
        return
    for number, line in enumerate(lines, start=1):
        if line.strip() and not _add_line(builder, line.split(), size, image_id, keypoints):
            detail = f"{labels.name}, line {number}: {keypoints.wanted}; got {line.strip()!r}"
            builder.report("bad line", detail, name, image_id=image_id)


def _labels_of(image: Path) -> Path | None:
    """Returns an image's label file: in labels/ if the image is in images/, or beside it."""
    for place in _label_places(image):
        if place.is_file():
            return place
    return None


def _label_places(image: Path) -> Iterator[Path]:
    parts = image.parts
    for index in range(len(parts) - 2, -1, -1):
        if parts[index].lower() == "images":
            yield Path(*parts[:index], "labels", *parts[index + 1 :]).with_suffix(".txt")
            break
    yield image.with_suffix(".txt")
    yield image.parent / "labels" / f"{image.stem}.txt"


def _add_line(
    builder: Builder, words: list[str], size: tuple[int, int], image_id: int, keypoints: Keypoints
) -> bool:
    """Adds the object of a line; returns False if the line is invalid."""
    values = _floats(words)
    if not values or not values[0].is_integer():
        return False
    category = int(values[0]) + 1  # the checks compare it with the names
    if len(values) == 5 + keypoints.length:
        points_of_object = keypoints.in_pixels(values[5:], size)
        builder.add_object(image_id, category, _box(values[1:5], size), **points_of_object)
    elif _is_polygon(values, keypoints):
        points = [to_pixels(value, size[i % 2]) for i, value in enumerate(values[1:])]
        builder.add_object(image_id, category, _around(points), segmentation=[points])
    else:
        return False
    return True


def _around(points: list[float]) -> list[float]:
    """Returns the box around x1, y1, x2, y2, ..."""
    xs, ys = points[0::2], points[1::2]
    width, height = max(xs) - min(xs), max(ys) - min(ys)
    return [min(xs), min(ys), round(width, DIGITS), round(height, DIGITS)]


def _is_polygon(values: list[float], keypoints: Keypoints) -> bool:
    return not keypoints.names and len(values) >= 7 and len(values) % 2 == 1


def _floats(words: list[str]) -> list[float]:
    try:
        return [float(word) for word in words]
    except ValueError:
        return []


def _box(values: list[float], size: tuple[int, int]) -> list[float]:
    x, y, width, height = values
    corner = [to_pixels(x - width / 2, size[0]), to_pixels(y - height / 2, size[1])]
    return [*corner, to_pixels(width, size[0]), to_pixels(height, size[1])]
