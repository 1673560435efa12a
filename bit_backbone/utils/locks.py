"""A lock that keeps two processes from writing into one folder."""

from __future__ import annotations

import errno
import fcntl
import warnings
from pathlib import Path
from typing import IO

LOCK_FILE = ".lock"
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


def lock_folder(folder: Path) -> IO[bytes]:
    """Takes the lock of a folder, which is made if missing, until the file returned is closed.

    A file system without locks (some NFS mounts) gets a warning.

    Raises:
        BlockingIOError: Another process has it.
        OSError: The folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / LOCK_FILE).open("wb")
    try:
        # A lock of lockf belongs only to the process; one of flock would live on in its
        # workers after a kill, and reject the next run.
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except PermissionError as error:  # EACCES, which some systems raise instead
        lock.close()
        raise BlockingIOError(*error.args) from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            lock.close()
            raise
        warnings.warn(
            f"the file system of {folder} has no locks ({error.strerror}): a second process "
            "could write there at the same time",
            stacklevel=3,
        )
    return lock
