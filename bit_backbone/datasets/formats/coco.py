"""COCO's own format: finds the annotation file and the folder of images."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bit_backbone.datasets.coco.annotations import load
from bit_backbone.datasets.coco.document import Document
from bit_backbone.datasets.formats.building import TEST

# Usual names of a data set's only annotation file: ours, Roboflow's, and other common ones.
_FILES = ("instances.json", "_annotations.coco.json", "annotations.json", "result.json")
_SPLITS = {"train": ("train",), TEST: ("test", "val")}
_LOOKED_AT = 20  # images that are tried to find their folder


def fits(root: Path) -> bool:
    """Whether a path is a JSON file, or a folder that holds one with a usual name."""
    if root.is_file():
        return root.suffix.lower() == ".json"
    return next(_candidates(root, None), None) is not None


def has_part(root: Path, part: str) -> bool:
    """Whether a folder has an annotation file of this part, such as instances_val2017.json."""
    return root.is_dir() and _of_part(root, part) is not None


def read(
    root: Path, part: str | None, annotations: str | None = None, images: str | None = None
) -> Document:
    """Reads an annotation file without checking its records.

    Args:
        root: The file, or its folder.
        part: "train" or "test", to choose among several files; None if there is only one.
        annotations: The file, relative to ``root``; None searches for it.
        images: The folder of the images, relative to ``root``; None searches for it.

    Raises:
        AnnotationError: The file is not a COCO file.
        ValueError: There is no annotation file, or more than one.
    """
    if annotations is not None:
        file = root / annotations
    else:
        file = root if root.is_file() else _only(root, list(_candidates(root, part)))
    content = load(file)
    base = root.parent if root.is_file() else root
    folder = base / images if images is not None else _folder_of(base, file, content)
    return Document(file, folder, content)


def _candidates(root: Path, part: str | None) -> Iterator[Path]:
    """Yields the annotation files of a folder that have a usual name or belong to a part."""
    usual = [root / name for name in _FILES if (root / name).is_file()]
    if usual:
        yield usual[0]
        return
    if part is not None:
        of_part = _of_part(root, part)
        if of_part is not None:
            yield of_part
        return
    yield from _instances(root)


def _instances(root: Path) -> list[Path]:
    return sorted((root / "annotations").glob("instances_*.json"))


def _of_part(root: Path, part: str) -> Path | None:
    for split in _SPLITS[part]:
        pattern = re.compile(rf"instances_{split}(\d*|minusminival.*)\.json")
        found = [path for path in _instances(root) if pattern.fullmatch(path.name)]
        if len(found) == 1:
            return found[0]
    return None


def _only(root: Path, files: list[Path]) -> Path:
    if len(files) == 1:
        return files[0]
    listed = ", ".join(file.name for file in files) or "none"
    raise ValueError(
        f"a COCO folder must have one annotation file, such as {_FILES[0]}; under {root} are: "
        f"{listed}; "
        "name the file"
    )


def _folder_of(base: Path, file: Path, content: dict[str, Any]) -> Path:
    """Returns the folder that holds most of the first images; "images" if none holds any."""
    names = [str(record.get("file_name")) for record in content["images"][:_LOOKED_AT]]
    split = file.stem.rpartition("_")[2]  # annotations/instances_val2017.json: val2017/
    places = [base / "images", base, file.parent.parent / "images", file.parent]
    places += [
        up / name for up in (base, file.parent.parent) for name in (split, f"images/{split}")
    ]
    held = {place: sum(_holds(place, name) for name in names) for place in dict.fromkeys(places)}
    best = max(held, key=lambda place: held[place])
    return best if held[best] else places[0]


def _holds(folder: Path, name: str) -> bool:
    base = name.replace("\\", "/").rpartition("/")[2]
    return any(base_ and os.path.isfile(folder / base_) for base_ in (name.lstrip("/"), base))
