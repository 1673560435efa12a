"""A folder that appears complete or not at all, whatever happens to its makers."""

import subprocess
import sys
import threading

import pytest

from bit_backbone.datasets.digits.workspace import publish, workspace


def test_published_content_appears_and_nothing_else_stays(tmp_path) -> None:
    target = tmp_path / "deep" / "set"
    with workspace(target) as folder:
        (folder / "file").write_text("content")
        assert not target.exists()
        publish(folder, target)
    assert [path.name for path in target.parent.iterdir()] == ["set"]
    assert (target / "file").read_text() == "content"


def test_what_fails_or_is_not_published_vanishes(tmp_path) -> None:
    with workspace(tmp_path / "set") as folder:
        (folder / "file").touch()
    with pytest.raises(FileExistsError), workspace(tmp_path / "set") as folder:
        folder.mkdir()
    assert not list(tmp_path.iterdir())


def test_what_a_kill_leaves_is_cleared(tmp_path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from bit_backbone.datasets.digits.workspace import workspace\n"
        "with workspace(Path(sys.argv[1])) as folder:\n"
        "    (folder / 'sub').mkdir(); (folder / 'file').touch()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "set")])
    assert done.returncode == -9
    assert [path.name for path in tmp_path.iterdir()] == [".set.partial"]
    with workspace(tmp_path / "set") as folder:
        assert not list(folder.iterdir())
    assert not list(tmp_path.iterdir())


def test_one_at_a_time(tmp_path) -> None:
    target, order, entered = tmp_path / "set", [], threading.Event()

    def second() -> None:
        entered.set()
        with workspace(target) as folder:
            order.append("second")
            assert not list(folder.iterdir())

    other = threading.Thread(target=second)
    with workspace(target) as folder:
        other.start()
        entered.wait()
        other.join(timeout=0.2)
        (folder / "file").touch()
        order.append("first")
        publish(folder, target)
    other.join(timeout=10)
    assert order == ["first", "second"]
    assert [path.name for path in target.iterdir()] == ["file"]


def test_a_taken_name_is_not_overwritten(tmp_path) -> None:
    target = tmp_path / "set"
    target.mkdir()
    (target / "mine").touch()
    with workspace(target) as folder, pytest.raises(OSError, match="not empty"):
        publish(folder, target)
    assert [path.name for path in target.iterdir()] == ["mine"]
