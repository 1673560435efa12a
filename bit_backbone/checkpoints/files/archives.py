"""Zip archives, which .npz and torch.save files are: opened without trusting their directory."""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path

from bit_backbone.checkpoints.errors import CheckpointError

# Twice R152x4 with its 21843-class head in float64, the largest sensible file.
MAX_BYTES = 16 * 2**30
# Weights hardly compress; a whole file that shrinks to a hundredth holds no trained network.
MAX_INFLATION = 100
INFLATION_FREE_BYTES = 64 * 2**20

# What zipfile raises where the data of a member are damaged.
DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError)
# And of a directory or header that is: names that are no text, numbers out of range, unknown
# methods of compression, encrypted members.
UNREADABLE = (*DAMAGE, ValueError, OverflowError, struct.error, NotImplementedError, RuntimeError)


def open_archive(path: Path) -> zipfile.ZipFile:
    """Opens a zip archive whose directory is sound and declares sensible sizes.

    Raises:
        CheckpointError: Truncated, damaged, or a zip bomb.
    """
    try:
        archive = zipfile.ZipFile(path)
    except UNREADABLE as error:
        raise CheckpointError(
            f"{path} is truncated: its {path.stat().st_size} bytes begin a zip archive (.npz or "
            f".pth) without an end ({error}); delete it and download it again"
        ) from error
    try:
        _check_inflation(str(path), archive.infolist())
    except BaseException:
        archive.close()
        raise
    return archive


def _check_inflation(origin: str, infos: list[zipfile.ZipInfo]) -> None:
    """Rejects zip bombs by the declared sizes; ``zipfile`` never hands out more than these."""
    inflated = sum(info.file_size for info in infos)
    stored = sum(info.compress_size for info in infos)
    if inflated > MAX_BYTES:
        raise CheckpointError(
            f"{origin} declares {inflated / 2**30:.1f} GiB of tensors; the limit is "
            f"{MAX_BYTES // 2**30} GiB, twice the largest BiT checkpoint, so this is not one"
        )
    if inflated > INFLATION_FREE_BYTES and inflated > MAX_INFLATION * stored:
        raise CheckpointError(
            f"{origin} looks like a zip bomb: {stored} bytes would inflate to {inflated}, and "
            f"weights never compress more than {MAX_INFLATION} times"
        )
