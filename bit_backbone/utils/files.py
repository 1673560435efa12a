"""Reads JSON, and writes files atomically: readers see the old content or the new one."""

from __future__ import annotations

import glob
import io
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_path(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary path in the target's folder; on success it is renamed to the target.

    The folder is made if it is missing. The content is on disk (fsync) before the name changes. An
    exception leaves the target unchanged and removes the temporary file.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        sync(temporary)
        temporary.chmod(_mode(target))
        os.replace(temporary, target)
        sync(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def staging_folder(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary folder beside the target; on success its files are moved there.

    Use it for several files that belong together, or for libraries that need the final file name.
    The old target is removed first and the new one is moved last, so whoever sees a target also
    sees the files that belong to it. An exception leaves everything unchanged.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{target.name}."
    with tempfile.TemporaryDirectory(prefix=prefix, dir=target.parent) as name:
        folder = Path(name)
        yield folder
        others = sorted(path.name for path in folder.iterdir() if path.name != target.name)
        for name in (*others, target.name):
            sync(folder / name)
            (folder / name).chmod(_mode(target.parent / name))
        if others:
            target.unlink(missing_ok=True)
        for name in (*others, target.name):
            os.replace(folder / name, target.parent / name)
        sync(target.parent)


def leftovers(target: str | os.PathLike[str]) -> list[Path]:
    """Returns the temporary files of ``atomic_path`` that killed processes left.

    They include files of a process that is still writing: call it only if nobody else writes.
    """
    target = Path(target)
    # Exactly mkstemp's eight characters, so that other files do not match.
    pattern = f".{glob.escape(target.name)}.{'[a-z0-9_]' * 8}"
    return sorted(target.parent.glob(pattern))


def sync(path: Path) -> None:
    """Waits until a file's content, or a folder's list of names, is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class BoundedReader(io.BufferedReader):
    """A file whose reads allocate at most its own size, even if a damaged file claims more."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(io.FileIO(os.fspath(path)))  # a Path is named PosixPath(...) in errors

    def read(self, size: int | None = -1, /) -> bytes:
        """Reads like any file."""
        if size is not None and size > io.DEFAULT_BUFFER_SIZE:
            size = min(size, max(0, os.fstat(self.fileno()).st_size - self.tell()))
        return super().read(size)


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        ValueError: The file does not hold a JSON object.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} should hold JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} should hold a JSON object, got {type(values).__name__}")
    return values


def _mode(target: Path) -> int:
    """Returns the target's permissions, or the umask's for a new file; mkstemp always sets 0600."""
    if target.exists():
        return target.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
