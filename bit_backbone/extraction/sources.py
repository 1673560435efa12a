"""The images of a source, listed before the first one is read."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from bit_backbone.extraction.destination import SETTINGS_FILE
from bit_backbone.extraction.listing import Files, Listing, Shards
from bit_backbone.utils.extras import require
from bit_backbone.utils.image_files import (
    IMAGE_SUFFIXES,
    Ignored,
    has_clutter,
    has_image_suffix,
    is_clutter,
    is_image,
)

SHARD_SUFFIX = ".tar"
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"PK": "zip", b"(\xb5": "zstd",
               b"7z": "7-Zip", b"Ra": "RAR"}  # fmt: skip
_BRACES = re.compile(r"\{[^{}]*(\.\.|,)[^{}]*\}")


def find_images(source: str | os.PathLike[str]) -> Listing:
    """Lists the images of a source.

    Output folders of extractions within the source are skipped, so that a repeated command finds
    the same images as the first time.

    Args:
        source: A folder, searched recursively; a glob ("photos/**/*.jpg"); a text file with one
            path per line, relative to the file's own folder; an image; WebDataset shards, as a
            file, a glob or a brace pattern ("train-{000000..000146}.tar"), or a folder of them.

    Returns:
        The images, in an order that depends only on their names. A list file keeps its own.

    Raises:
        ValueError: There is no image, an image is listed twice, or images and shards are mixed.
    """
    text = os.fspath(source)
    path = Path(text)
    if path.is_dir():
        ignored = Ignored()
        listing = _of_one_kind(text, path, _walk(path, ignored), ignored)
    elif not path.is_file():
        listing = _of_one_kind(text, *_matches(text))
    elif has_image_suffix(text):
        listing = Files(path.parent, [path.name])
    elif _is_shard(text):
        listing = Shards([path])
    else:
        listing = _list_file(path)
    if not len(listing):
        raise ValueError(
            f"the source needs at least one image ({', '.join(IMAGE_SUFFIXES)}), got "
            f"{text!r}, which has none"
            + (f" among {len(listing.ignored)} files ({listing.ignored})" * bool(listing.ignored))
        )
    return listing


def _is_shard(name: str) -> bool:
    return name.lower().endswith(SHARD_SUFFIX)


def _of_one_kind(
    source: str, root: Path, names: Iterable[str], ignored: Ignored | None = None
) -> Listing:
    """Lists the images among files, or the images in the shards among them.

    Args:
        source: What messages call it.
        root: Folder that the names are relative to.
        names: Of all files that were found, in order.
        ignored: What was passed over so far.
    """
    images: list[str] = []
    shards: list[Path] = []
    ignored = Ignored() if ignored is None else ignored
    for name in names:
        if is_image(name) and not has_clutter(name):
            images.append(name)
        elif _is_shard(name) and not is_clutter(os.path.basename(name)):
            shards.append(root / name)
        else:
            ignored.add(name)
    if images and shards:
        raise ValueError(
            f"a source must contain either images or WebDataset shards, and {source} holds "
            f"{len(images)} images "
            f"and {len(shards)} {SHARD_SUFFIX} files; use a glob for one of them"
        )
    return Shards(shards, ignored) if shards else Files(root, images, ignored)


def _walk(root: Path, ignored: Ignored) -> Iterator[str]:
    """Yields every file below a folder, in order of name, with paths relative to it.

    Links to folders are followed, each folder once; destinations of extractions are left out, and
    so are folders that operating systems leave, which ``ignored`` takes up.
    """

    def fail(error: OSError) -> None:
        raise error  # os.walk would pass over a folder that it may not read

    seen: set[tuple[int, int]] = set()
    for folder, folders, files in os.walk(root, onerror=fail, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        below = os.path.relpath(folder, root).replace(os.sep, "/")
        if below != "." and SETTINGS_FILE in files:  # the root is what the user asked for
            folders.clear()
            continue
        for name in filter(is_clutter, folders):
            ignored.add(name)
        folders[:] = sorted(name for name in folders if not is_clutter(name))
        for file in sorted(files):
            yield file if below == "." else f"{below}/{file}"


def _matches(text: str) -> tuple[Path, list[str]]:
    """Returns the files that a glob or a brace pattern matches, below the folder they share."""
    pieces = [text]
    if _BRACES.search(text):
        braces = require("braceexpand", "extract", "a source with braces")
        pieces = list(braces.braceexpand(text))
    if len(pieces) == 1 and not glob.has_magic(text):
        raise ValueError(f"the source must be a folder, a file or a pattern; there is no {text!r}")
    found: set[str] = set()
    for piece in pieces:
        if not glob.has_magic(piece):
            if not os.path.exists(piece):
                raise ValueError(f"a brace pattern must name existing files; there is no {piece!r}")
            found.add(piece)
        found.update(name for name in glob.iglob(piece, recursive=True) if not os.path.isdir(name))
    root = _fixed_part(pieces)
    names = [os.path.relpath(name, root).replace(os.sep, "/") for name in sorted(found)]
    written = _destinations(root, names)
    return root, [name for name in names if os.path.dirname(name) not in written]


def _destinations(root: Path, names: Iterable[str]) -> set[str]:
    """Returns those folders of files, relative to the root, that extractions write to."""
    folders = {os.path.dirname(name) for name in names}
    above = {folder: {folder, *map(str, PurePosixPath(folder).parents)} for folder in folders}
    every = set().union(*above.values()) - {"", "."}
    written = {folder for folder in every if (root / folder / SETTINGS_FILE).exists()}
    return {folder for folder in folders if not written.isdisjoint(above[folder])}


def _fixed_part(pieces: Iterable[str]) -> Path:
    """Returns the deepest folder that all patterns share before their first wildcard."""
    folders = []
    for piece in pieces:
        folder = os.path.dirname(piece)
        while glob.has_magic(folder):
            folder = os.path.dirname(folder)
        folders.append(folder)
    shared = os.path.commonpath(map(os.path.abspath, folders))
    return Path(shared if any(map(os.path.isabs, folders)) else os.path.relpath(shared))


def _list_file(path: Path) -> Listing:
    with path.open("rb") as file:
        kind = _COMPRESSED.get(file.read(2))
    if kind is not None:
        raise ValueError(
            f"{path} is compressed ({kind}): unpack it first, and name the folder or .tar file"
        )
    lines = path.read_text(encoding="utf-8-sig", errors="surrogateescape").split("\n")
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        name = line.strip()
        if "\0" in name:
            raise ValueError(f"{path} should list one path per line; line {number} is binary")
        first = seen.setdefault(os.path.normpath(name).lstrip("/"), number) if name else number
        if first != number:
            raise ValueError(
                f"{path} should list every image once; {name!r} is on lines {first} and {number}"
            )
    names = [os.path.normpath(line.strip()) for line in lines if line.strip()]
    root = path.parent
    folders = [os.path.join(os.path.abspath(root), os.path.dirname(name)) for name in names]
    return Files(root, names, folder=Path(os.path.commonpath(folders)) if folders else root)
