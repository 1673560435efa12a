"""The lock of a folder, and file systems that have none."""

import errno
import fcntl
import os

import pytest
from held_locks import held

from bit_backbone.utils.locks import lock_folder


def test_one_process_at_a_time(tmp_path):
    with held(tmp_path), pytest.raises(BlockingIOError):
        lock_folder(tmp_path)
    lock_folder(tmp_path).close()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_warned_of(number, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "lockf", fail)
    with pytest.warns(UserWarning, match=r"has no locks \(.*a second process could write"):
        lock_folder(tmp_path / "run").close()
    assert (tmp_path / "run").is_dir()


def test_other_errors_stay_errors(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(fcntl, "lockf", fail)
    with pytest.raises(OSError, match="broken"):
        lock_folder(tmp_path)
