"""Scenes in COCO's terms: https://cocodataset.org/#format-data."""

from typing import Any

import numpy as np

from bit_backbone.datasets.coco.masks import encode_runs
from bit_backbone.datasets.digits.glyphs import KEYPOINTS, SKELETON
from bit_backbone.datasets.digits.scenes import CATEGORIES, Scene
from bit_backbone.datasets.digits.sources import PHOTOGRAPHS


def image_record(scene: Scene, image_id: int, file_name: str) -> dict[str, Any]:
    """Returns the entry of ``images``."""
    height, width = scene.image.shape[:2]
    return {"id": image_id, "file_name": file_name, "width": width, "height": height}


def annotation_records(scene: Scene, image_id: int) -> list[dict[str, Any]]:
    """Returns the entries of ``annotations``, without ids."""
    return [
        {
            "image_id": image_id,
            "category_id": int(label) + 1,
            "bbox": _box(mask),
            "area": int(mask.sum()),
            "iscrowd": 0,
            "segmentation": {"size": list(mask.shape), "counts": encode_runs(mask)},
            "keypoints": keypoints.ravel().tolist(),
            "num_keypoints": len(keypoints),
        }
        for label, mask, keypoints in zip(scene.labels, scene.masks, scene.keypoints, strict=True)
    ]


def document(images: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> dict[str, Any]:
    """Numbers the annotations, and returns the content of ``instances.json``."""
    return {
        "info": {"description": "DigitScenes: handwritten digits on photographs", "version": "1.0"},
        "licenses": _licences(),
        "images": images,
        # From 1: pycocotools takes a match with annotation 0 for no match.
        "annotations": [{"id": i} | record for i, record in enumerate(annotations, start=1)],
        "categories": [
            {
                "id": i,
                "name": name,
                "supercategory": "digit",
                "keypoints": KEYPOINTS,
                "skeleton": SKELETON,
            }
            for i, name in enumerate(CATEGORIES, start=1)
        ],
    }


def _box(mask: np.ndarray) -> list[int]:
    """Returns x, y, width and height of the smallest box around the mask's pixels."""
    rows, columns = np.nonzero(mask)
    left, top = int(columns.min()), int(rows.min())
    return [left, top, int(columns.max()) + 1 - left, int(rows.max()) + 1 - top]


def _licences() -> list[dict[str, Any]]:
    names = ["digits: CC BY 4.0, UCI Optical Recognition of Handwritten Digits"]
    names += [f"{p.file}: {p.licence}" for photos in PHOTOGRAPHS.values() for p in photos]
    return [{"id": i, "name": name} for i, name in enumerate(names, start=1)]
