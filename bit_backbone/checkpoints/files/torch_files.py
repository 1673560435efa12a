"""What torch.save writes: a pickle of where the tensors are, and blocks of their bytes.

Opening a file reads the pickle only; a block is read when a tensor over it is. So a checkpoint
costs what is taken out of it, whatever an optimizer has put beside.
"""

from __future__ import annotations

import io
import os
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch

from bit_backbone.checkpoints.errors import CheckpointError
from bit_backbone.checkpoints.files.archives import UNREADABLE, open_archive
from bit_backbone.checkpoints.files.known_globals import stored_type
from bit_backbone.checkpoints.files.trees import TreeFile
from bit_backbone.checkpoints.files.unpickling import unpickle
from bit_backbone.checkpoints.files.values import (
    PickleError,
    Placeholder,
    Storage,
    Storages,
    is_count,
)
from bit_backbone.utils.files import BoundedReader

PICKLE = "data.pkl"
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_COUNT_BYTES = 8  # what stands before each block of a legacy file
_CHUNK = 2**20


class _ZipStorages(Storages):
    """The members of an archive."""

    def __init__(self, path: Path) -> None:
        self.origin = str(path)
        self.archive = open_archive(path)
        try:
            self._folder = self._find_folder()
            order = self._member("byteorder", sys.byteorder.encode())
            self.swapped = order.decode("latin1") != sys.byteorder
        except BaseException:
            self.archive.close()
            raise

    def _find_folder(self) -> str:
        names = [name for name in self.archive.namelist() if name.rsplit("/", 1)[-1] == PICKLE]
        folder = names[0].removesuffix(PICKLE)
        if f"{folder}constants.pkl" in self.archive.namelist():
            raise CheckpointError(
                f"{self.origin} is a TorchScript archive, a program with its weights: load it with "
                "torch.jit.load, and save its state_dict() with torch.save"
            )
        return folder

    def pickle(self) -> bytes:
        """Returns the pickle, checked against its checksum."""
        return self._member(PICKLE)

    def _member(self, name: str, default: bytes | None = None) -> bytes:
        try:
            return self.archive.read(self._folder + name)
        except KeyError:
            assert default is not None
            return default
        except UNREADABLE as error:
            raise _damaged(self.origin, self._folder + name, error) from error

    def nbytes(self, key: str) -> int:
        """Returns what the archive's directory says."""
        try:
            return self.archive.getinfo(f"{self._folder}data/{key}").file_size
        except KeyError:
            raise PickleError(f"it has no data of the tensor {key!r}") from None

    def read(self, key: str) -> torch.Tensor:
        """Reads a member to its end, which is what compares the checksum."""
        info = self.archive.getinfo(f"{self._folder}data/{key}")
        block = torch.empty(info.file_size, dtype=torch.uint8, device="cpu")
        try:
            with self.archive.open(info) as stream:
                _fill(block, stream)
                stream.read(1)
        except UNREADABLE as error:
            raise _damaged(self.origin, info.filename, error) from error
        return block


class _LegacyStorages(Storages):
    """The blocks at the end of a file of torch before 1.6, one after the other."""

    def __init__(self, origin: str, file: IO[bytes]) -> None:
        self.origin, self.file = origin, file
        self._sizes: dict[str, tuple[int, int]] = {}  # numbers, and bytes of each
        self._places: dict[str, int] = {}

    def nbytes(self, key: str) -> int:
        """Returns what the pickle says, which ``find_blocks`` compares with the file."""
        count, width = self._sizes[key]
        return count * width

    def named(self, saved: Any) -> Any:
        """Returns the storage that a persistent id of the pickle means."""
        if isinstance(saved, tuple) and saved[:1] == ("module",) and len(saved) > 1:
            return saved[1]  # a class, with its source beside it
        if not _is_storage(saved, 6):
            raise PickleError("a tensor names no storage")
        _, name, key, _, count, view = saved
        known, dtype = stored_type(name)
        if not known:
            raise PickleError(
                f"its storage {key!r} is of the unknown type {Placeholder(name).name}"
            )
        size = count, 1 if dtype is None else dtype.itemsize
        if self._sizes.setdefault(key, size) != size:
            raise PickleError(f"its storage {key!r} has two sizes")
        if view is None:
            return Storage(self, key, dtype, count)
        if not isinstance(view, tuple) or len(view) != 3 or not all(map(is_count, view[1:])):
            raise PickleError(f"a view of its storage {key!r} is damaged")
        return _checked(Storage(self, key, dtype, count=view[2], first=view[1]))

    def find_blocks(self, keys: Any) -> None:
        """Notes where each block begins, and checks that all are there."""
        texts = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
        if not texts or set(keys) != set(self._sizes):
            raise PickleError("its list of storages is not that of its tensors")
        position, end = self.file.tell(), self.file.seek(0, os.SEEK_END)
        for key in keys:
            self.file.seek(position)
            count = int.from_bytes(self.file.read(_COUNT_BYTES), "little", signed=True)
            if count != self._sizes[key][0]:
                raise PickleError(f"its storage {key!r} has another size than its tensors say")
            self._places[key] = position + _COUNT_BYTES
            position += _COUNT_BYTES + self.nbytes(key)
        if position > end:
            raise PickleError("its last storages are missing")

    def read(self, key: str) -> torch.Tensor:
        """Reads a block."""
        block = torch.empty(self.nbytes(key), dtype=torch.uint8, device="cpu")
        self.file.seek(self._places[key])
        try:
            _fill(block, self.file)
        except EOFError as error:
            raise CheckpointError(f"{self.origin} was cut short while it was being read") from error
        return block


def _fill(block: torch.Tensor, stream: IO[bytes]) -> None:
    left = memoryview(block.numpy().data)
    while left:
        count = stream.readinto(left[:_CHUNK])  # type: ignore[attr-defined]
        if not count:
            raise EOFError("they end early")
        left = left[count:]


def _damaged(origin: str, member: str, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{origin} is damaged: {member} cannot be read ({error}); fetch it again. If it was saved "
        "with torch.serialization.set_crc32_options(False), load it yourself and pass its state "
        "dict"
    )


def open_torch_file(path: Path) -> TreeFile:
    """Opens a torch.save file, wherever in it the state dict is.

    Raises:
        CheckpointError: Truncated or damaged.
    """
    if zipfile.is_zipfile(path):
        storages = _ZipStorages(path)
        return _tree(path, storages.archive.close, lambda: _read_zip(storages), "torch.save")
    file = BoundedReader(path)
    return _tree(path, file.close, lambda: read_legacy(str(path), file), "torch.save before 1.6")


def _tree(path: Path, close: Callable[[], None], read: Callable[[], Any], kind: str) -> TreeFile:
    try:
        return TreeFile(read(), str(path), kind, close)
    except PickleError as error:
        close()
        raise CheckpointError(
            f"{path} is truncated or not a torch.save file ({error}); delete it and fetch it again"
        ) from error
    except BaseException:
        close()
        raise


def _read_zip(storages: _ZipStorages) -> Any:
    def persistent_load(saved: Any) -> Any:
        if not _is_storage(saved, 5):
            raise PickleError("a tensor names no storage")
        known, dtype = stored_type(saved[1])
        if not known:
            return Placeholder(saved[1])
        return _checked(Storage(storages, saved[2], dtype, saved[4]))

    return unpickle(io.BytesIO(storages.pickle()), persistent_load)


def _is_storage(saved: Any, length: int) -> bool:
    is_tuple = isinstance(saved, tuple) and len(saved) == length and saved[0] == "storage"
    return is_tuple and isinstance(saved[2], str) and is_count(saved[4])


def _checked(storage: Storage) -> Storage:
    width = 1 if storage.dtype is None else storage.dtype.itemsize
    held = storage.storages.nbytes(storage.key)
    if (storage.first + storage.count) * width > held:
        raise PickleError(
            f"its storage {storage.key!r} should have {storage.count * width} bytes, and has {held}"
        )
    return storage


def read_legacy(origin: str, file: IO[bytes]) -> Any:
    """Reads a file of torch before 1.6: five pickles, then the blocks.

    Raises:
        PickleError: Damaged.
    """
    magic, protocol, _ = (unpickle(file) for _ in range(3))
    if magic != LEGACY_MAGIC or protocol != _LEGACY_PROTOCOL:
        raise PickleError("it does not begin as torch.save's files do")
    storages = _LegacyStorages(origin, file)
    content = unpickle(file, storages.named)
    storages.find_blocks(unpickle(file))
    return content
