"""What a source is made of: a fixed order of images, in files or in WebDataset shards.

A listing is kept in memory: about 150 bytes for each image.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bit_backbone.extraction.keys import free_key, key_of, split_member
from bit_backbone.extraction.source_folder import SourceFolder
from bit_backbone.utils.image_files import Ignored, has_clutter, is_image


@dataclass(frozen=True, slots=True)
class ImageRef:
    """Where an image is.

    Attributes:
        key: Its name in the output, unique in the source.
        path: What messages call it, as the source was named; an image in a shard is SHARD/MEMBER.
        file: The file to open; absolute, since other processes may have another working folder.
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
        ignored: Files that do not look like images, and what operating systems left.
    """

    root: SourceFolder
    ignored: Ignored

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
        folder: The folder that stands for the source; None for ``root``.
    """

    def __init__(
        self,
        root: Path,
        names: list[str],
        ignored: Ignored | None = None,
        folder: Path | None = None,
    ) -> None:
        self.root = SourceFolder(root if folder is None else folder)
        self.ignored = Ignored() if ignored is None else ignored
        self._named, self._folder = str(root), str(root.absolute())
        self._names = names

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> ImageRef:  # type: ignore[override]  # no slices
        name = self._names[index]
        path, file = os.path.join(self._named, name), os.path.join(self._folder, name)
        return ImageRef(key_of(name.lstrip("/")), path, file)


class Shards(Listing):
    """The images in WebDataset shards, found by reading their headers once.

    A sample keeps its key. Where a key occurs again, in another shard or for a second image of one
    sample, the later ones end in ~2, ~3, ...

    Args:
        files: Uncompressed tar files.
        ignored: Files left out, beside the members that are no images.
    """

    def __init__(self, files: list[Path], ignored: Ignored | None = None) -> None:
        shared = os.path.commonpath([file.parent.absolute() for file in files])
        self.root = SourceFolder(Path(shared))
        self.ignored = Ignored() if ignored is None else ignored
        self._working_folder = Path.cwd()
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
        key, problem = self._ordered[index], self._problems.get(index)
        return ImageRef(key, path, str(self._working_folder / file), *place, problem)

    def _scan(self, number: int, file: Path) -> None:
        try:
            for member in _members(file):
                key, extensions = split_member(member.name)
                if is_image(f"x.{extensions}") and not has_clutter(member.name):
                    self._add(key, number, member.name, member.offset_data, member.size)
                else:
                    self.ignored.add(member.name)
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
