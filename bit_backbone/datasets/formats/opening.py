"""Opens a data set of any known format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from bit_backbone.datasets.coco.document import Document
from bit_backbone.datasets.coco.problems import UPRIGHT
from bit_backbone.datasets.formats import coco, voc, yolo
from bit_backbone.datasets.formats.building import FORMATS, TEST, TRAIN
from bit_backbone.utils.ways_out import after, passing

_READERS: dict[str, ModuleType] = dict(zip(FORMATS, (coco, voc, yolo), strict=True))
_SUBFOLDERS = {TRAIN: ("train",), TEST: ("test", "valid", "val")}
_LOOKED_FOR = (
    "COCO's format (instances.json beside images/, or annotations/instances_*.json), Pascal VOC "
    "(Annotations/ and JPEGImages/, or XML files beside images) or YOLO (data.yaml, or classes.txt "
    "and labels/)"
)


def open_document(
    path: Path,
    part: str | None = None,
    *,
    format: str | None = None,
    annotations: str | None = None,
    images: str | None = None,
    exif: str = UPRIGHT,
) -> Document:
    """Reads a data set, or a part of it.

    Args:
        path: A folder or file. If a folder holds one folder per part (train, and test, valid or
            val), the part's folder is read; if it holds one folder such as VOC2007, that one is.
        part: "train" or "test"; None for the whole data set.
        format: One of ``FORMATS``; None detects it from the files.
        annotations: COCO's file, relative to ``path``; None searches for it.
        images: The folder of COCO's images, relative to ``path``; None searches for it.
        exif: How images are annotated, as in ``CocoFolder``; YOLO's sizes depend on it.

    Raises:
        AnnotationError: A COCO file is invalid.
        ValueError: The path holds no known format, or several.
    """
    if annotations is not None and format in (None, "coco"):
        return coco.read(path, part, annotations, images)
    name, root = _recognise(path, part, format)
    if name == "coco":
        return coco.read(root, part, annotations, images)
    part = part if _has(name, root) else None
    if name == "yolo":
        return yolo.read(root, part, exif == UPRIGHT)
    return voc.read(root, part)


def has_part(path: Path, part: str, *, format: str | None = None) -> bool:
    """Whether a data set itself defines its training or test part."""
    if _part_folder(path, part) is not None and not _fitting(path, format):
        return True
    found = _fitting(path, format)
    return len(found) == 1 and bool(_READERS[found[0]].has_part(_year(path), part))


def _has(name: str, root: Path) -> bool:
    """Whether a data set is divided into parts; otherwise each part is the whole."""
    return any(_READERS[name].has_part(root, part) for part in (TRAIN, TEST))


def _recognise(path: Path, part: str | None, format: str | None) -> tuple[str, Path]:
    """Returns the format, and the folder or file in it."""
    if not path.exists():
        raise ValueError(f"a data set must be a folder or a file; {path} does not exist")
    found, root = _fitting(path, format), _year(path)
    if not found and part is not None and (inner := _part_folder(path, part)) is not None:
        found, root = _fitting(inner, format), _year(inner)
    if not found:
        wanted = _LOOKED_FOR if format is None else f"format {format}"
        raise ValueError(f"a data set must have {wanted}; none of it was found in {path}")
    if len(found) > 1:
        way_out = after("; ", passing("format", found[0], "or another of them"))
        raise ValueError(f"{path} may be of several formats, {', '.join(found)}{way_out}")
    return found[0], root


def _fitting(path: Path, format: str | None) -> list[str]:
    names = FORMATS if format is None else (format,)
    tests: dict[str, Callable[[Path], bool]] = {name: _READERS[name].fits for name in names}
    return [name for name, fits in tests.items() if fits(_year(path))]


def _year(path: Path) -> Path:
    """Returns the only folder with a name like VOC2007, if there is one."""
    inner = list(path.glob("VOC20[0-9][0-9]")) if path.is_dir() else []
    return inner[0] if len(inner) == 1 else path


def _part_folder(path: Path, part: str) -> Path | None:
    """Returns a data set's folder for a part, such as valid/."""
    if not path.is_dir():
        return None
    found = (path / name for name in _SUBFOLDERS[part])
    return next((folder for folder in found if folder.is_dir() and _fitting(folder, None)), None)
