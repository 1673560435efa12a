"""Compares the sizes of images with their annotations, mostly by reading only the headers."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError
from PIL.ExifTags import Base

from bit_backbone.preprocessing.images import decode
from bit_backbone.utils.processes import is_first_process
from bit_backbone.utils.progress import track
from bit_backbone.utils.ways_out import after, passing

THREADS = 8  # they mostly wait for the disk; a header takes about 0.2 ms of computing
SHOWN = 5000  # the progress is shown from this number of images on
ON_ITS_SIDE = 5  # EXIF orientations of at least 5 exchange width and height


def size_problems(
    records: list[dict[str, Any]], folder: Path, upright: bool = True
) -> Iterator[tuple[dict[str, Any], list[tuple[str, str]]]]:
    """Yields each entry of ``images``, with a problem (kind, detail) if its file has another size.

    Files are taken upright, by their EXIF orientation, or as they are stored. Unreadable files are
    not reported here: the error is raised when they are read.
    """
    is_shown = len(records) >= SHOWN and is_first_process()
    with ThreadPoolExecutor(THREADS) as pool:
        sizes = pool.map(partial(_other_size, folder, upright), records)
        shown = track(sizes, "checking sizes", len(records), enabled=is_shown, transient=True)
        for record, size in zip(records, shown, strict=True):
            yield record, [] if size is None else [wrong_size(record, *size)]


def wrong_size(record: dict[str, Any], width: int, height: int) -> tuple[str, str]:
    """Returns kind and detail of the problem that a file has this other size."""
    detail = f"annotated as {record['width']}x{record['height']}, the file is {width}x{height}"
    if (width, height) == (record["height"], record["width"]):
        detail += " when turned upright by its EXIF orientation, if it has one"
        detail += after("; ", passing("exif", "stored", "if it was annotated as it is stored"))
    return "wrong size", detail


def sizes(
    records: list[dict[str, Any]], folder: Path, upright: bool = True
) -> Iterator[tuple[int, int] | None]:
    """Yields width and height of each entry's file; None if the file cannot be read."""
    with ThreadPoolExecutor(THREADS) as pool:
        paths = [folder / str(record.get("file_name")) for record in records]
        yield from pool.map(partial(size_of, upright=upright), paths)


def size_of(path: Path, upright: bool = True) -> tuple[int, int] | None:
    """Returns width and height of an image, upright or as stored; None if it is unreadable."""
    try:
        return _size_in_header(path, upright) or decode(path, str(path), None, upright).size
    except Exception:  # of any kind: Pillow's plugins raise many on damaged files
        return None


def _other_size(folder: Path, upright: bool, record: dict[str, Any]) -> tuple[int, int] | None:
    """Returns width and height of a file; None if they equal the annotated ones."""
    path, annotated = folder / record["file_name"], (record["width"], record["height"])
    try:
        if _size_in_header(path, upright) == annotated:
            return None
        # The header may lack the orientation: a PNG may have it after the pixels.
        size = decode(path, str(path), None, upright).size
    except Exception:  # of any kind: Pillow's plugins raise many on damaged files
        return None
    return None if size == annotated else size


def _size_in_header(path: Path, upright: bool) -> tuple[int, int] | None:
    try:
        opened = Image.open(path)
    except UnidentifiedImageError:
        return None  # Pillow may not support the format
    with opened as image:
        if image.format == "TIFF":
            return None  # Pillow's version decides whether the size is turned already
        if not upright:
            return image.size
        # Not the method of a PNG, which decodes all of it in search of a late orientation.
        orientation = Image.Image.getexif(image).get(Base.Orientation, 1)
        width, height = image.size
    return (height, width) if orientation >= ON_ITS_SIDE else (width, height)
