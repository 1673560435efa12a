"""A folder that appears under its final name complete or not at all."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bit_backbone.utils.files import sync


@contextmanager
def workspace(target: Path) -> Iterator[Path]:
    """Yields an empty folder beside ``target``; fill it, then pass it to :func:`publish`.

    One process at a time works on a target: others wait here until it has published or given up.
    Unpublished folders are removed at the end or, after a kill, by the next workspace of the same
    target.

    Raises:
        OSError: The parent folder cannot be made or written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = target.parent / f".{target.name}.partial"
    lock = _make_and_lock(folder)
    try:
        for leftover in folder.iterdir():
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def publish(folder: Path, target: Path) -> None:
    """Gives a finished folder its final name.

    Raises:
        OSError: The target exists and is not an empty folder.
    """
    sync(folder)
    folder.rename(target)
    sync(target.parent)


def write_synced(file: Path, data: bytes) -> None:
    """Writes a file and waits until it is on the disk."""
    file.write_bytes(data)
    sync(file)


def _make_and_lock(folder: Path) -> int:
    """Locks the folder that is now at this path, and returns the descriptor of the lock."""
    while True:
        folder.mkdir(exist_ok=True)
        try:
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue
        fcntl.flock(lock, fcntl.LOCK_EX)
        # While this process waited, the folder may have been published or removed.
        if folder.exists() and os.path.samestat(os.fstat(lock), os.stat(folder)):
            return lock
        os.close(lock)
