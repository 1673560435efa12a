"""Reading .npz archives one member at a time, without pickles and without trusting their sizes.

numpy.load would do for honest files. This reader checks every header before it reads any data, and
turns convolution kernels from the official height, width, in, out order into torch's while they
stream in, so that no second copy of a tensor ever exists.
"""

from __future__ import annotations

import math
import tokenize
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from bit_backbone.checkpoints.errors import CheckpointError
from bit_backbone.checkpoints.files.archives import DAMAGE, UNREADABLE, open_archive
from bit_backbone.checkpoints.files.base import FLOAT_DTYPES, TensorFile, TensorSpec

# Blocks that stay in a core's cache while they are transposed, and are too small for torch to
# split among threads: several processes that load at once would wait for each other's.
BLOCK_VALUES = 2**15
MIN_BLOCK_ROWS = 16  # one cache line of a transposed row
MAX_HEADER_BYTES = 10_000  # numpy's own limit for an untrusted header


class _Member:
    """One array of an archive: where it is and what its header says."""

    def __init__(self, info: zipfile.ZipInfo, shape: tuple[int, ...], dtype: Any, fortran: bool):
        self.info = info
        self.shape = shape
        self.dtype = dtype
        self.fortran = fortran
        self.nbytes = math.prod(shape) * dtype.itemsize


class NpzFile(TensorFile):
    """An .npz archive.

    Kernels (arrays of four axes) come back with the given shape, height, width, in, out, over
    memory in the order out, in, height, width: the transposition that follows costs nothing.

    Raises:
        CheckpointError: Not a whole zip file, an array of Python objects, or sizes that disagree.
    """

    kind = ".npz"

    def __init__(self, path: Path) -> None:
        self.origin = str(path)
        self._zip = open_archive(path)
        try:
            self._members = dict(self._open_members())
        except BaseException:
            self._zip.close()
            raise
        self.specs = {
            name: TensorSpec(member.shape, member.dtype.name)
            for name, member in self._members.items()
        }

    def close(self) -> None:
        """Closes the archive."""
        self._zip.close()

    def read(self, name: str) -> torch.Tensor:
        """Returns one array as a tensor."""
        member = self._members[name]
        dtype = FLOAT_DTYPES[member.dtype.name]
        stored_shape = member.shape[::-1] if member.fortran else member.shape
        try:
            with self._zip.open(member.info) as stream:
                # Read, not seek: zipfile gives up the checksum once it has sought.
                stream.read(member.info.file_size - member.nbytes)
                is_kernel = len(stored_shape) == 4 and not member.fortran
                read = _read_kernel if is_kernel else _read_plain
                tensor = read(stream, stored_shape, member.dtype, dtype)
                stream.read(1)  # reaching the end is what compares the checksum
        except DAMAGE as error:
            raise CheckpointError(
                f"{self.origin}: the data of {name!r} are damaged ({error}); fetch the file again"
            ) from error
        return tensor.permute(*range(tensor.ndim)[::-1]) if member.fortran else tensor

    def _open_members(self) -> Iterator[tuple[str, _Member]]:
        # Not is_dir(), which fails on an empty name.
        infos = [info for info in self._zip.infolist() if not info.filename.endswith("/")]
        for info in infos:
            name = info.filename.removesuffix(".npy")
            try:
                with self._zip.open(info) as stream:
                    shape, fortran, dtype = _read_header(stream)
                    header_bytes = stream.tell()
            except UNREADABLE as error:
                raise CheckpointError(
                    f"{self.origin}: the member {info.filename!r} is not a readable numpy array "
                    f"({error}); fetch the file again"
                ) from error
            if dtype.hasobject:
                raise CheckpointError(
                    f"{self.origin}: the array {name!r} holds pickled Python objects, which can "
                    "run code when they are read; only arrays of numbers are read"
                )
            member = _Member(info, shape, dtype, fortran)
            if header_bytes + member.nbytes != info.file_size:
                raise CheckpointError(
                    f"{self.origin}: the array {name!r} of shape {list(shape)} and type {dtype} "
                    f"needs {header_bytes + member.nbytes} bytes, but the archive declares "
                    f"{info.file_size}; the file is damaged or forged"
                )
            yield name, member


# What ast.literal_eval raises beside ValueError, and tokenize, to which numpy gives what is left.
_NO_LITERAL = (SyntaxError, TypeError, MemoryError, RecursionError, tokenize.TokenError)


def _read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(stream)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read is None:
        raise ValueError(f"version {version} of the .npy format")
    try:
        return read(stream, max_header_size=MAX_HEADER_BYTES)
    except _NO_LITERAL as error:
        raise ValueError(f"its header is no dictionary that Python reads: {error}") from error


def _rows(
    stream: IO[bytes], rows: int, row_values: int, stored: np.dtype
) -> Iterator[tuple[int, torch.Tensor]]:
    """Yields (first row, some rows as a tensor [n, row_values]) over one small buffer."""
    step = max(MIN_BLOCK_ROWS, BLOCK_VALUES // max(row_values, 1))
    buffer = np.empty((min(step, rows), row_values), stored)
    for first in range(0, rows, step):
        part = buffer[: rows - first]
        if stream.readinto(part.view(np.uint8)) != part.nbytes:  # type: ignore[attr-defined]
            raise EOFError("they end early")
        yield first, torch.from_numpy(part.astype(stored.newbyteorder("="), copy=False))


def _read_plain(
    stream: IO[bytes], shape: tuple[int, ...], stored: np.dtype, dtype: torch.dtype
) -> torch.Tensor:
    tensor = torch.empty(shape, dtype=dtype, device="cpu")
    flat = tensor.view(-1, 1)
    for first, rows in _rows(stream, flat.shape[0], 1, stored):
        flat[first : first + rows.shape[0]] = rows
    return tensor


def _read_kernel(
    stream: IO[bytes], shape: tuple[int, ...], stored: np.dtype, dtype: torch.dtype
) -> torch.Tensor:
    height, width, inputs, outputs = shape
    kernel = torch.empty(outputs, inputs, height, width, dtype=dtype, device="cpu")
    for row in range(height):
        for column in range(width):
            target = kernel[:, :, row, column]
            for first, rows in _rows(stream, inputs, outputs, stored):
                columns = BLOCK_VALUES // rows.shape[0]
                into = target[:, first : first + rows.shape[0]]
                for strip, values in zip(
                    into.split(columns), rows.split(columns, dim=1), strict=True
                ):
                    strip.copy_(values.t())
    return kernel.permute(2, 3, 1, 0)
