"""A COCO folder of rectangles on noise, and a detector small enough to learn from it in a test."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

# The smallest BiT that GroupNorm's groups divide; torchvision's detectors around it are not small.
VARIANT = {
    "embedding_size": 8,
    "hidden_sizes": [16, 32, 64, 64],
    "depths": [1, 1, 1, 1],
    "num_groups": 4,
}
SMALL = {
    "variant": VARIANT,
    "min_size": 64,
    "max_size": 96,
}


def write_coco(root: Path, count: int = 6, seed: int = 0) -> Path:
    """Write bright rectangles on noise: wide ones are "bar", others "block", with masks."""
    rng = np.random.default_rng(seed)
    content: dict[str, list] = {"images": [], "annotations": []}
    content["categories"] = [
        {"id": 7, "name": "bar", "keypoints": ["corner", "centre"]},
        {"id": 2, "name": "block", "keypoints": ["corner", "centre"]},
    ]
    (root / "images").mkdir(parents=True)
    for image_id in range(1, count + 1):
        width, height = (64, 48) if image_id % 3 else (48, 64)  # every third is tall
        pixels = rng.integers(0, 90, (height, width, 3), np.uint8)
        for number, (w, h) in enumerate(((24, 8), (14, 16))):
            x, y = int(rng.integers(0, width - w)), int(rng.integers(0, height - h))
            pixels[y : y + h, x : x + w] = 255
            content["annotations"].append(
                {
                    "id": 2 * image_id + number,
                    "image_id": image_id,
                    "category_id": (7, 2)[number],
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": 0,
                    "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
                    "keypoints": [x, y, 2, x + w // 2, y + h // 2, 2],
                    "num_keypoints": 2,
                }
            )
        name = f"{image_id}.png"
        Image.fromarray(pixels).save(root / "images" / name)
        content["images"].append(
            {"id": image_id, "file_name": name, "width": width, "height": height}
        )
    (root / "instances.json").write_text(json.dumps(content))
    return root
