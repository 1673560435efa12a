"""What these tests share: child processes that find the package, and a tiny COCO folder."""

import json
from pathlib import Path

import pytest
from PIL import Image

import bit_backbone


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the Python processes that a test starts import this bit_backbone from any folder."""
    monkeypatch.setenv("PYTHONPATH", str(Path(bit_backbone.__file__).parents[1]))


class CocoFiles:
    """Two images of 40x30, a cat and a dog; a test changes `content` and calls `write`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.content = {
            "images": [
                {"id": 7, "file_name": "a.png", "width": 40, "height": 30},
                {"id": 9, "file_name": "b.png", "width": 40, "height": 30},
            ],
            "categories": [
                {"id": 90, "name": "dog", "keypoints": ["nose", "tail"]},
                {"id": 3, "name": "cat", "keypoints": ["nose", "tail"]},
            ],
            "annotations": [
                {
                    "id": 1,
                    "image_id": 7,
                    "category_id": 90,
                    "bbox": [5, 6, 10, 12],
                    "area": 60,
                    "iscrowd": 0,
                    "segmentation": [[5, 6, 15, 6, 15, 18]],
                    "keypoints": [6, 7, 2, 14, 17, 1],
                },
                {
                    "id": 2,
                    "image_id": 7,
                    "category_id": 3,
                    "bbox": [0, 0, 40, 30],
                    "segmentation": {"size": [30, 40], "counts": [0, 600, 600]},
                    "keypoints": [0, 0, 0, 20, 10, 2],
                },
            ],
        }
        (root / "images").mkdir()
        for record in self.content["images"]:
            Image.new("RGB", (40, 30), "teal").save(root / "images" / record["file_name"])

    @property
    def file(self) -> Path:
        return self.root / "instances.json"

    @property
    def images(self) -> Path:
        return self.root / "images"

    def write(self) -> Path:
        self.file.write_text(json.dumps(self.content))
        return self.root


@pytest.fixture
def coco_files(tmp_path: Path) -> CocoFiles:
    return CocoFiles(tmp_path)
