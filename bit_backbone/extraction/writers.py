"""The two kinds of shard: a WebDataset tar file of maps, and a Parquet file of vectors."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from io import BufferedWriter
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np

from bit_backbone.extraction.features import Features
from bit_backbone.extraction.settings import OutputSettings

# Rows that are gathered before they are written: a row group of this many vectors.
_ROWS = 1024
# Bytes of a shard that gather before they are sent to the disk.
_UNSYNCED = 2**26

Parts: TypeAlias = Sequence[bytes | memoryview]


class ShardWriter(Protocol):
    """Writes the features of the images of a shard into one file."""

    def add(self, features: Features) -> dict[str, Any]:
        """Adds an image; returns what the index says of it."""

    def close(self) -> None:
        """Writes what is still in memory."""


def shard_name(number: int, output: OutputSettings) -> str:
    """Returns the path of a shard below the destination."""
    return f"shard-{number:06d}.tar" if output.pool is None else f"vectors/{number:06d}.parquet"


def open_shard(path: Path, output: OutputSettings, channels: Mapping[str, int]) -> ShardWriter:
    """Starts a shard.

    Args:
        path: The file to write.
        output: What is written.
        channels: Of each output.
    """
    if output.pool is not None:
        return VectorWriter(path, output.dtype, channels)
    return MapWriter(path, {"npy": npy_files, "safetensors": safetensors_file}[str(output.format)])


class MapWriter:
    """A tar file by WebDataset's convention: KEY.EXTENSION, the files of a key side by side.

    tarfile makes the headers; maps go from their own memory to the system, where tarfile would copy
    them twice before.
    """

    def __init__(self, path: Path, files: Any) -> None:
        self._files = files
        self._stream = path.open("wb")
        self._disk = _EarlySync(self._stream)

    def add(self, features: Features) -> dict[str, Any]:
        """Adds the maps of an image."""
        for extension, parts in self._files(features.arrays):
            member = tarfile.TarInfo(f"{features.ref.key}.{extension}")
            member.size = sum(map(len, parts))
            header = member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
            for part in (header, *parts, bytes(-member.size % tarfile.BLOCKSIZE)):
                self._stream.write(part)
            self._disk.written(member.size)
        shapes = {f"{name}_shape": list(array.shape) for name, array in features.arrays.items()}
        return _index_row(features) | shapes

    def close(self) -> None:
        """Ends the tar file."""
        with self._stream, self._disk:
            self._stream.write(bytes(2 * tarfile.BLOCKSIZE))
            self._stream.write(bytes(-self._stream.tell() % tarfile.RECORDSIZE))


class _EarlySync:
    """Has what a file grows by brought to the disk meanwhile, so that its end does not wait long.

    Args:
        stream: The file, which another thread syncs.
    """

    def __init__(self, stream: BufferedWriter) -> None:
        self._stream = stream
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="sync")
        self._latest: Future[None] | None = None
        self._unsynced = 0

    def written(self, size: int) -> None:
        """Takes notice of bytes that were written.

        Raises:
            OSError: An earlier sync failed.
        """
        self._unsynced += size
        is_busy = self._latest is not None and not self._latest.done()
        if self._unsynced < _UNSYNCED or is_busy:
            return
        if self._latest is not None:
            self._latest.result()
        self._stream.flush()
        self._latest = self._pool.submit(os.fsync, self._stream.fileno())
        self._unsynced = 0

    def __enter__(self) -> None:
        """Does nothing: syncs may be under way."""

    def __exit__(self, *_: Any) -> None:
        """Waits for a sync that is under way, and raises if it failed."""
        self._pool.shutdown()
        if self._latest is not None:
            self._latest.result()


def npy_files(arrays: Mapping[str, np.ndarray]) -> Iterable[tuple[str, Parts]]:
    """Yields STAGE.npy for each map."""
    for name, array in arrays.items():
        header = io.BytesIO()
        about = np.lib.format.header_data_from_array_1_0(array)
        np.lib.format.write_array_header_1_0(header, about)
        yield f"{name}.npy", (header.getvalue(), np.ascontiguousarray(array).data.cast("B"))


def safetensors_file(arrays: Mapping[str, np.ndarray]) -> Iterable[tuple[str, Parts]]:
    """Yields one file that holds every map."""
    from safetensors.numpy import save

    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    yield "safetensors", (save(contiguous),)


class VectorWriter:
    """A Parquet file with a row per image: key, path, sizes, and a fixed-size list per output."""

    def __init__(self, path: Path, dtype: str, channels: Mapping[str, int]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        value = {"fp32": pa.float32(), "fp16": pa.float16()}[dtype]
        vectors = [(name, pa.list_(value, count)) for name, count in channels.items()]
        self._schema = pa.schema([*index_columns(), *vectors])
        self._channels = channels
        self._rows: list[Features] = []
        self._stream = path.open("wb")
        self._parquet = pq.ParquetWriter(self._stream, self._schema)

    def add(self, features: Features) -> dict[str, Any]:
        """Adds the vectors of an image."""
        self._rows.append(features)
        if len(self._rows) == _ROWS:
            self._flush()
        return _index_row(features)

    def close(self) -> None:
        """Writes the last rows and the table's footer."""
        try:
            self._flush()
            self._parquet.close()
        finally:
            self._stream.close()

    def _flush(self) -> None:
        import pyarrow as pa

        if not self._rows:
            return
        rows = [_index_row(features) for features in self._rows]
        columns = [pa.array([row[name] for row in rows], kind) for name, kind in index_columns()]
        for name, count in self._channels.items():
            flat = np.concatenate([features.arrays[name] for features in self._rows])
            columns.append(pa.FixedSizeListArray.from_arrays(pa.array(flat), count))
        self._parquet.write_table(pa.Table.from_arrays(columns, schema=self._schema))
        self._rows = []


def index_columns() -> Sequence[tuple[str, Any]]:
    """Returns the columns that say which image a row is of; needs pyarrow."""
    import pyarrow as pa

    sizes = ("height", "width", "input_height", "input_width")
    return [("key", pa.string()), ("path", pa.string()), *((name, pa.int32()) for name in sizes)]


def _index_row(features: Features) -> dict[str, Any]:
    height, width = features.size
    input_height, input_width = features.input_size
    return {
        "key": features.ref.key,
        "path": printable(features.ref.path),
        "height": height,
        "width": width,
        "input_height": input_height,
        "input_width": input_width,
    }


def printable(path: str) -> str:
    r"""Returns a path as valid Unicode: bytes that are not UTF-8 become \xNN."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
