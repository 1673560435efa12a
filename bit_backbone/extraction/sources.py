"""The images of a source, listed before the first is read.

A listing is kept in memory: about 150 bytes for each image.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
import tarfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bit_backbone._extras import require
from bit_backbone.extraction.keys import free_key, key_of, split_member

# What Pillow reads without a program beside it: its list has EPS and PDF too.
IMAGE_SUFFIXES = (
    *(".avif", ".bmp", ".dib", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm"),
    *(".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"),
)
SHARD_SUFFIX = ".tar"
_BRACES = re.compile(r"\{[^{}]*(\.\.|,)[^{}]*\}")


@dataclass(frozen=True, slots=True)
class ImageRef:
    """Where an image is.

    Attributes:
        key: Its name in the output, unique in the source.
        path: What messages call it; an image in a shard is SHARD/MEMBER.
        file: The file to open.
        offset: First byte of the image in the file.
        size: Number of its bytes; None for the whole file.
        problem: Why there is nothing to read; None if there is.
    """

    key: str
    path: str
    file: str
    offset: int = 0
    size: int | None = None
    problem: str | None = None


class Listing(Sequence[ImageRef]):
    """The images of a source, in a fixed order.

    Attributes:
        root: The folder whose disappearance means that the source is gone.
        ignored: Number of files that do not look like images.
    """

    root: Path
    ignored: int = 0

    def fingerprint(self) -> str:
        """Returns a hash over all keys, in order."""
        digest = hashlib.sha256()
        for ref in self:
            digest.update(ref.key.encode() + b"\n")
        return digest.hexdigest()

    def __iter__(self) -> Iterator[ImageRef]:
        return (self[index] for index in range(len(self)))


class Files(Listing):
    """Image files.

    Args:
        root: Folder that the names are relative to.
        names: Paths below it, or absolute, with forward slashes.
        ignored: Files left out.
        watched: The folder that stands for the source; None for ``root``.
    """

    def __init__(
        self, root: Path, names: list[str], ignored: int = 0, watched: Path | None = None
    ) -> None:
        self.root = root if watched is None else watched
        self.ignored = ignored
        self._folder = str(root)
        self._names = names

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> ImageRef:  # type: ignore[override]  # no slices
        name = self._names[index]
        path = os.path.join(self._folder, name)
        return ImageRef(key_of(name.lstrip("/")), path, path)


class Shards(Listing):
    """The images in WebDataset shards, found by reading their headers once.

    A sample keeps its key. Where a key occurs again, in another shard or for a second image of one
    sample, the later ones end in ~2, ~3, ...

    Args:
        files: Uncompressed tar files.
    """

    def __init__(self, files: list[Path]) -> None:
        self.root = Path(os.path.commonpath([file.parent for file in files]))
        self._files = files
        self._keys: dict[str, None] = {}  # a set that keeps its order
        self._members: list[str] = []
        self._problems: dict[int, str] = {}
        self._owner, self._offset, self._size = array("q"), array("q"), array("q")
        for number, file in enumerate(files):
            self._scan(number, file)
        self._ordered = list(self._keys)

    def __len__(self) -> int:
        return len(self._ordered)

    def __getitem__(self, index: int) -> ImageRef:  # type: ignore[override]  # no slices
        file = self._files[self._owner[index]]
        member = self._members[index]
        path = str(file / member) if member else str(file)
        place = self._offset[index], self._size[index]
        return ImageRef(self._ordered[index], path, str(file), *place, self._problems.get(index))

    def _scan(self, number: int, file: Path) -> None:
        try:
            for member in _members(file):
                key, extensions = split_member(member.name)
                if _is_image(f"x.{extensions}"):
                    self._add(key, number, member.name, member.offset_data, member.size)
                else:
                    self.ignored += 1
        except tarfile.TarError as error:
            self._problems[len(self._keys)] = (
                f"this shard is no uncompressed tar file, or damaged: {error}; what follows in it "
                "cannot be read"
            )
            self._add(key_of(file.name), number, "", 0, 0)

    def _add(self, key: str, number: int, member: str, offset: int, size: int) -> None:
        self._keys[free_key(key, self._keys)] = None
        self._members.append(member)
        self._owner.append(number)
        self._offset.append(offset)
        self._size.append(size)


def _members(file: Path) -> Iterator[tarfile.TarInfo]:
    """Yields the files in a tar file, and raises TarError where it is cut off or damaged."""
    with tarfile.open(file, "r:") as shard:
        while (member := shard.next()) is not None:
            shard.members = []  # type: ignore[attr-defined]  # it would keep every header
            if member.isfile():
                yield member
        end = shard.offset
    # tarfile takes a broken header for the end, which is a block of zeros.
    with file.open("rb") as stream:
        stream.seek(end)
        block = stream.read(tarfile.BLOCKSIZE)
    if not block or block.strip(b"\0"):
        raise tarfile.ReadError(f"there is no end mark at byte {end}")


def find_images(source: str | os.PathLike[str]) -> Listing:
    """Lists the images of a source.

    Args:
        source: A folder, searched recursively; a glob ("photos/**/*.jpg"); a text file with one
            path per line, relative to the file's own folder; an image; WebDataset shards, as a
            file, a glob or a brace pattern ("train-{000000..000146}.tar"), or a folder of them.

    Returns:
        The images, in an order that depends on their names alone. A list file keeps its own.

    Raises:
        ValueError: There is no image, or an image is listed twice.
    """
    text = os.fspath(source)
    path = Path(text)
    if path.is_dir():
        listing = _folder(path)
    elif path.is_file():
        listing = _file(path)
    else:
        listing = _pattern(text)
    if not len(listing):
        raise ValueError(
            f"the source needs at least one image ({', '.join(IMAGE_SUFFIXES)}), got "
            f"{text!r}, which has none"
            + (f" among {listing.ignored} files" if listing.ignored else "")
        )
    return listing


def _file(path: Path) -> Listing:
    if path.suffix == SHARD_SUFFIX:
        return Shards([path])
    if _is_image(path.name):
        return Files(path.parent, [path.name])
    return _list_file(path)


def _folder(root: Path) -> Listing:
    names: list[str] = []
    shards: list[Path] = []
    ignored = 0
    for name in _walk(root):
        if _is_image(name):
            names.append(name)
        elif name.endswith(SHARD_SUFFIX):
            shards.append(root / name)
        else:
            ignored += 1
    if names and shards:
        raise ValueError(
            f"a folder holds images or WebDataset shards, and {root} holds {len(names)} images and "
            f"{len(shards)} .tar files; name the one kind with a glob"
        )
    return Shards(shards) if shards else Files(root, names, ignored)


def _walk(root: Path) -> Iterator[str]:
    """Yields every file below a folder, in order of name, with paths relative to it.

    Links to folders are followed, each folder once.
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
        folders.sort()
        below = os.path.relpath(folder, root).replace(os.sep, "/")
        for file in sorted(files):
            yield file if below == "." else f"{below}/{file}"


def _pattern(text: str) -> Listing:
    """Lists what a glob or a brace pattern matches."""
    pieces = [text]
    if _BRACES.search(text):
        braces = require("braceexpand", "extract", "a source with braces")
        pieces = list(braces.braceexpand(text))
    if len(pieces) == 1 and not glob.has_magic(text):
        raise ValueError(f"the source is a folder, a file or a pattern; there is no {text!r}")
    matches = _matches(pieces)
    if matches and all(name.endswith(SHARD_SUFFIX) for name in matches):
        return Shards([Path(name) for name in matches])
    images = [name for name in matches if _is_image(name)]
    root = _fixed_part(pieces)
    names = [os.path.relpath(name, root).replace(os.sep, "/") for name in images]
    return Files(root, names, len(matches) - len(images))


def _matches(pieces: Iterable[str]) -> list[str]:
    found: set[str] = set()
    for piece in pieces:
        if not glob.has_magic(piece):
            if not os.path.exists(piece):
                raise ValueError(f"a brace pattern names files that exist; there is no {piece!r}")
            found.add(piece)
        found.update(name for name in glob.iglob(piece, recursive=True) if not os.path.isdir(name))
    return sorted(found)


def _fixed_part(pieces: Iterable[str]) -> Path:
    """Returns the deepest folder that all patterns share before their first wildcard."""
    folders = []
    for piece in pieces:
        folder = os.path.dirname(piece)
        while glob.has_magic(folder):
            folder = os.path.dirname(folder)
        folders.append(os.path.abspath(folder))
    return Path(os.path.relpath(os.path.commonpath(folders)))


def _list_file(path: Path) -> Listing:
    lines = path.read_text(encoding="utf-8", errors="surrogateescape").split("\n")
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
    return Files(root, names, watched=Path(os.path.commonpath(folders)) if folders else root)


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES
