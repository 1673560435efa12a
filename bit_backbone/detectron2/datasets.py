"""DigitScenes in detectron2's catalogs, so that a configuration can be tried without any download.

``digit_scenes_train`` and ``digit_scenes_test`` are made when they are first asked for, under
``$DETECTRON2_DATASETS`` (./datasets without it) like detectron2's own.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json

from bit_backbone.datasets import DigitScenes, build_scenes
from bit_backbone.datasets.digits.glyphs import KEYPOINTS

__all__ = ["register_digit_scenes"]

SIZES = {"train": 500, "test": 100}  # images


def register_digit_scenes() -> None:
    """Registers both splits; names that are taken already stay as they are."""
    root = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")).expanduser() / "digit_scenes"
    for split, size in SIZES.items():
        name, folder = f"digit_scenes_{split}", root / split
        if name in DatasetCatalog:
            continue
        scenes = DigitScenes(split, num_images=size)
        DatasetCatalog.register(name, partial(_load, name, scenes, folder))
        MetadataCatalog.get(name).set(
            json_file=str(folder / "instances.json"),
            image_root=str(folder / "images"),
            evaluator_type="coco",
            keypoint_names=tuple(KEYPOINTS),
            keypoint_flip_map=(("right", "left"),),
        )


def _load(name: str, scenes: DigitScenes, folder: Path) -> list[dict[str, Any]]:
    build_scenes(scenes, folder)  # left as they are, where they stand already
    return load_coco_json(str(folder / "instances.json"), str(folder / "images"), name)
