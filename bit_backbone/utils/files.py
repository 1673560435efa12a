"""Reading JSON, and writing files so that a reader sees the old content or the new, never half."""

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
    """Gives a temporary path in the target's folder, which becomes the target on success.

    The folder is made if it is missing. The content is on disk (fsync) before the name changes; an
    exception leaves the target as it was and removes the temporary file.
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
    """Gives a temporary folder beside the target, whose files take their places on success.

    For what comes as several files, or is written by a library that minds the file's name. The one
    with the target's name comes last, and its earlier version goes first: whoever sees it sees the
    others that belong to it. An exception leaves everything as it was.
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
    """Returns the temporary files of ``atomic_path`` that processes left when they were killed.

    Those of a process that is still writing are among them: ask only where nobody else writes.
    """
    target = Path(target)
    # mkstemp's eight characters, so that no file of another name is taken for one
    pattern = f".{glob.escape(target.name)}.{'[a-z0-9_]' * 8}"
    return sorted(target.parent.glob(pattern))


def sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class BoundedReader(io.BufferedReader):
    """A file that allocates no more than it holds, whatever lengths a damaged file claims."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(io.FileIO(os.fspath(path)))  # a Path is named PosixPath(...) in errors

    def read(self, size: int | None = -1, /) -> bytes:
        """Reads as any file does."""
        if size is not None and size > io.DEFAULT_BUFFER_SIZE:
            size = min(size, max(0, os.fstat(self.fileno()).st_size - self.tell()))
        return super().read(size)


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        ValueError: The file holds something else.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} should hold JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} should hold a JSON object, got {type(values).__name__}")
    return values


def _mode(target: Path) -> int:
    """The target's own permissions, or those the umask gives to a new file; mkstemp gives 0600."""
    if target.exists():
        return target.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
