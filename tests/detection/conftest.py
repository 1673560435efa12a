"""What the tests of training share."""

from pathlib import Path

import pytest
from rectangles import write_coco

import bit_backbone


@pytest.fixture
def coco_folder(tmp_path: Path) -> Path:
    return write_coco(tmp_path / "data")


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the Python processes that a test starts import this bit_backbone from any folder."""
    monkeypatch.setenv("PYTHONPATH", str(Path(bit_backbone.__file__).parents[1]))
