"""Checkpoint files of every kind, recognised by their content and never by their name."""

from __future__ import annotations

import zipfile
from pathlib import Path

from bit_backbone.checkpoints.errors import CheckpointError
from bit_backbone.checkpoints.files.archives import UNREADABLE
from bit_backbone.checkpoints.files.base import (
    FLOAT_DTYPES,
    GroupPath,
    TensorFile,
    TensorSpec,
)
from bit_backbone.checkpoints.files.npz import NpzFile
from bit_backbone.checkpoints.files.pickles import open_pickle_file
from bit_backbone.checkpoints.files.safetensors import SafetensorsFile
from bit_backbone.checkpoints.files.sharded import ShardedFile
from bit_backbone.checkpoints.files.torch_files import PICKLE, open_torch_file
from bit_backbone.checkpoints.files.trees import TreeFile

__all__ = [
    "FLOAT_DTYPES",
    "WEIGHT_FILES",
    "GroupPath",
    "TensorFile",
    "TensorSpec",
    "TreeFile",
    "open_file",
    "open_folder",
]

# What transformers and timm call the weights in a folder or a Hub repository, best first.
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)

_SNIFFED_BYTES = 512
# What people find under a checkpoint's name instead of a checkpoint, by how it starts.
_IMPOSTORS = {
    b"<": "a web page (HTML or XML): the link is dead or asks for a login",
    b"version https://git-lfs": "a Git LFS pointer, not the file itself: run `git lfs pull`",
    b"\x89HDF": "an HDF5 file of the TensorFlow 2 models: take the .npz of the same name",
    b"\x1f\x8b": "a gzip archive: unpack it first",
}


def open_file(path: Path) -> TensorFile:
    """Opens a checkpoint file: .npz, torch.save, .safetensors, a shard index or a .pkl.

    Args:
        path: The file; its name does not matter.

    Raises:
        CheckpointError: Not a file, empty, none of these kinds, damaged or unsafe.
    """
    if not path.is_file():
        raise CheckpointError(f"no such file: {path}")
    try:
        with path.open("rb") as file:
            head = file.read(_SNIFFED_BYTES)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    if not head:
        raise CheckpointError(f"{path} is empty (0 bytes): delete it and fetch it again")
    for start, what in _IMPOSTORS.items():
        if head.lstrip().lower().startswith(start.lower()):
            raise CheckpointError(f"{path} is {what}; it starts with {head[:40]!r}")
    return _opener(path, head)(path)


def open_folder(folder: Path) -> TensorFile:
    """Opens the weights of a folder that transformers, timm or this package saved.

    Raises:
        CheckpointError: It holds none of WEIGHT_FILES, or a bad one.
    """
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return open_file(folder / name)
    raise CheckpointError(f"{folder} must hold one of {', '.join(WEIGHT_FILES)}; it holds none")


def _opener(path: Path, head: bytes):  # type: ignore[no-untyped-def]
    if head.startswith(b"PK"):
        return open_torch_file if _is_torch_zip(path) else NpzFile
    if head.lstrip().startswith(b"{"):
        return lambda index: ShardedFile(index, open_file)
    # A safetensors file starts with the length of its JSON header, then the header itself.
    if head[8:9] == b"{":
        return SafetensorsFile
    if head.startswith(b"\x80"):
        return open_torch_file if _is_legacy_torch(head) else open_pickle_file
    raise CheckpointError(
        f"{path} is not a checkpoint file: it must be .npz, torch.save, .safetensors or .pkl, and "
        f"starts with {head[:16]!r}"
    )


def _is_torch_zip(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.rsplit("/", 1)[-1] == PICKLE for name in archive.namelist())
    except UNREADABLE:
        return False


def _is_legacy_torch(head: bytes) -> bool:
    """Whether a pickle starts with the magic number of torch.save before version 1.6."""
    return b"\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19" in head
