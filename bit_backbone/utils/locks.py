"""A lock that keeps two processes from writing to the same folder."""

from __future__ import annotations

import errno
import fcntl
import warnings
from pathlib import Path
from typing import IO

LOCK_FILE = ".lock"
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


def lock_folder(folder: Path) -> IO[bytes]:
    """Locks a folder until the returned file is closed; makes the folder if it is missing.

    On a file system without locks (some NFS mounts) it only warns.

    Raises:
        BlockingIOError: Another process has the lock.
        OSError: The folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / LOCK_FILE).open("wb")
    try:
        # A lockf lock belongs only to this process. After a kill, a flock lock would stay with
        # the workers and block the next run.
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
