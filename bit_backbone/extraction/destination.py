"""The folder that an extraction fills, so that a kill at any moment loses unfinished shards only.

DEST/extraction.json       what decides the result; the same command has the same
DEST/shard-000000.tar      maps, or DEST/vectors/000000.parquet
DEST/progress/000000.json  written after its shard: the shard counts from then on
DEST/index.parquet         at the end: where each image's maps are
DEST/failures.jsonl        at the end: every image without features, and why
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from bit_backbone.extraction.errors import ExtractionError
from bit_backbone.extraction.features import Failure, Features
from bit_backbone.extraction.settings import OutputSettings, differences
from bit_backbone.extraction.writers import index_columns, open_shard, printable, shard_name
from bit_backbone.utils.files import atomic_path, read_json
from bit_backbone.utils.locks import LOCK_FILE, lock_folder

SETTINGS_FILE = "extraction.json"
INDEX_FILE = "index.parquet"
FAILURES_FILE = "failures.jsonl"
_PROGRESS = "progress"
# What atomic_path leaves when it is killed: a dot, the final name, a dot, eight random characters.
_LEFTOVER = re.compile(r"\.(.+)\.[a-z0-9_]{8}")


@dataclass(frozen=True)
class Summary:
    """The account of an extraction: ``written + failed`` is the number of images.

    Attributes:
        written: Images with features.
        failed: Images in failures.jsonl.
    """

    written: int
    failed: int


class Destination:
    """The output folder; the shards in it are the steps of the work.

    Args:
        folder: Made if missing.
        output: What is written.
        channels: Of each output.
    """

    def __init__(self, folder: Path, output: OutputSettings, channels: Mapping[str, int]) -> None:
        self.folder = folder
        self._output = output
        self._channels = channels

    @contextmanager
    def opened(self, settings: Mapping[str, Any]) -> Iterator[None]:
        """Takes hold of the folder for one run, removing what a killed one left half-written.

        Raises:
            ValueError: It holds another extraction, with other settings, or other files.
            ExtractionError: Another process is at it, or it cannot be written.
        """
        with self.explained():
            lock = self._lock()
        with lock:
            with self.explained():
                self._settle(settings)
                self._remove_leftovers()
            yield

    def _lock(self) -> IO[bytes]:
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"the output must be a folder, and {self.folder} is a file")
        self._reject_foreign_files()
        try:
            return lock_folder(self.folder)
        except BlockingIOError as error:
            raise ExtractionError(f"another extraction is writing to {self.folder}") from error

    def _reject_foreign_files(self) -> None:
        if not self.folder.is_dir() or (self.folder / SETTINGS_FILE).exists():
            return
        foreign = [
            name
            for name in os.listdir(self.folder)
            if name != LOCK_FILE and not name.startswith(f".{SETTINGS_FILE}.")
        ]
        if foreign:
            raise ValueError(
                f"the output must be a new or empty folder, or one of an earlier extraction; "
                f"{self.folder} contains {min(foreign)!r} and no {SETTINGS_FILE}"
            )

    def _settle(self, settings: Mapping[str, Any]) -> None:
        path = self.folder / SETTINGS_FILE
        settings = json.loads(json.dumps(settings))  # tuples are lists in the file
        if not path.exists():
            with atomic_path(path) as temporary:
                temporary.write_text(json.dumps(settings, indent=2) + "\n")
            return
        changed = differences(read_json(path), settings)
        if changed:
            raise ValueError(
                f"{self.folder} was begun with other settings: {'; '.join(changed)}. Repeat the "
                "first command to continue, or give another --output"
            )

    def _remove_leftovers(self) -> None:
        for folder in (self.folder, self.folder / _PROGRESS, self.folder / "vectors"):
            for path in folder.glob(".*"):
                if _LEFTOVER.fullmatch(path.name):
                    path.unlink()

    def finished(self) -> set[int]:
        """Returns the numbers of the shards that are done, and that nobody has taken away since."""
        numbers = {int(path.stem) for path in (self.folder / _PROGRESS).glob("[0-9]*.json")}
        return {number for number in numbers if self._is_there(number)}

    def _is_there(self, number: int) -> bool:
        exists = (self.folder / shard_name(number, self._output)).exists()
        return exists or not self._record(number)["written"]  # a shard of failures has no file

    def write_shard(self, number: int, results: Iterable[Features | Failure]) -> Summary:
        """Writes one shard whole, then the record that makes it count.

        Raises:
            ExtractionError: The folder cannot be written; nothing of the shard is left.
        """
        path = self.folder / shard_name(number, self._output)
        record: dict[str, Any] = {"written": [], "failures": []}
        with self.explained():
            with atomic_path(path) as temporary:
                self._fill(temporary, results, record)
            if not record["written"]:
                path.unlink()
            with atomic_path(self._record_path(number)) as temporary:
                temporary.write_text(json.dumps(record), encoding="utf-8")
        return Summary(len(record["written"]), len(record["failures"]))

    def _fill(
        self, path: Path, results: Iterable[Features | Failure], record: Mapping[str, list[Any]]
    ) -> None:
        writer = open_shard(path, self._output, self._channels)
        try:
            for result in results:
                if isinstance(result, Failure):
                    place = {"path": printable(result.ref.path), "key": result.ref.key}
                    record["failures"].append(place | {"reason": printable(result.reason)})
                else:
                    record["written"].append(writer.add(result))
        finally:
            writer.close()

    def finish(self, shards: Sequence[int]) -> Summary:
        """Writes the index and the list of failures out of the shards' records."""
        written = failed = 0
        with self.explained():
            for record in map(self._record, shards):
                written += len(record["written"])
                failed += len(record["failures"])
            with atomic_path(self.folder / FAILURES_FILE) as temporary:
                self._write_failures(temporary, shards)
            if self._output.pool is None:
                with atomic_path(self.folder / INDEX_FILE) as temporary:
                    self._write_index(temporary, shards)
        return Summary(written, failed)

    def _write_failures(self, path: Path, shards: Sequence[int]) -> None:
        with path.open("w", encoding="utf-8") as file:
            for number in shards:
                for failure in self._record(number)["failures"]:
                    file.write(json.dumps(failure, ensure_ascii=False) + "\n")

    def _write_index(self, path: Path, shards: Sequence[int]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        shapes = [(f"{name}_shape", pa.list_(pa.int32(), 3)) for name in self._channels]
        schema = pa.schema([*index_columns(), ("shard", pa.string()), *shapes])
        with pq.ParquetWriter(path, schema) as index:
            for number in shards:
                shard = {"shard": shard_name(number, self._output)}
                rows = [row | shard for row in self._record(number)["written"]]
                index.write_table(pa.Table.from_pylist(rows, schema=schema))

    def _record(self, number: int) -> dict[str, Any]:
        return read_json(self._record_path(number))

    def _record_path(self, number: int) -> Path:
        return self.folder / _PROGRESS / f"{number:06d}.json"

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Makes the system's errors say what they mean for the extraction."""
        try:
            yield
        except ExtractionError:
            raise
        except OSError as error:
            raise ExtractionError(
                f"{self.folder} cannot be written: {error.strerror or error}. Finished shards are "
                "kept: repeat the command to continue when it can"
            ) from error
