"""A lock that keeps two processes from writing into one folder."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import IO

LOCK_FILE = ".lock"


def lock_folder(folder: Path) -> IO[bytes]:
    """Takes the lock of a folder, which is made if missing, until the file returned is closed.

    Raises:
        BlockingIOError: Another process has it.
        OSError: The folder cannot be written, or its file system has no locks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / LOCK_FILE).open("wb")
    try:
        # A lock of lockf belongs to the process alone; one of flock would live on in its
        # workers after a kill, and refuse the next run.
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except PermissionError as error:  # EACCES, by which some systems tell the same
        lock.close()
        raise BlockingIOError(*error.args) from error
    except OSError:
        lock.close()
        raise
    return lock
