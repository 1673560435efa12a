"""The results of a detector or segmenter for an image, in COCO's format and as JSON values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bit_backbone.utils.extras import require


def coco_records(
    found: dict[str, Tensor], image_id: int, category_ids: Sequence[int], min_score: float = 0.0
) -> list[dict[str, Any]]:
    """Returns a detector's results for an image in COCO's results format.

    Args:
        found: "boxes", "labels", "scores", and "masks" and "keypoints" where there are any.
        image_id: Id of the image.
        category_ids: Ids of the classes, label 1 first.
        min_score: Objects with a smaller score are left out.

    Raises:
        MissingExtraError: There are masks, and pycocotools is not installed.
    """
    # RetinaNet and FCOS have a score for label 0 as well, which no target ever teaches.
    kept = (found["labels"] > 0) & (found["scores"] >= min_score)
    found = {name: value[kept].cpu() for name, value in found.items()}
    boxes = found["boxes"].clone()
    boxes[:, 2:] -= boxes[:, :2]
    rows = zip(boxes.tolist(), found["labels"].tolist(), found["scores"].tolist(), strict=True)
    records: list[dict[str, Any]] = [
        {"image_id": image_id, "category_id": category_ids[label - 1], "bbox": box, "score": score}
        for box, label, score in rows
    ]
    for record, mask in zip(records, found.get("masks", ()), strict=False):
        record["segmentation"] = run_lengths(mask[0] > 0.5)
    for record, points in zip(records, found.get("keypoints", ()), strict=False):
        record["keypoints"] = points.flatten().tolist()
    return records


def found_of(records: Sequence[Mapping[str, Any]], labels: Mapping[int, int]) -> dict[str, Tensor]:
    """Returns records of an image as a detector gives them: the inverse of ``coco_records``.

    Args:
        records: In COCO's results format.
        labels: By the ids of the categories.

    Raises:
        MissingExtraError: There are masks, and pycocotools is not installed.
    """
    boxes = torch.tensor([r["bbox"] for r in records], dtype=torch.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    found = {
        "boxes": boxes,
        "labels": torch.tensor([labels[r["category_id"]] for r in records], dtype=torch.int64),
        "scores": torch.tensor([r["score"] for r in records]),
    }
    if records and "segmentation" in records[0]:
        found["masks"] = torch.stack([mask_of(r["segmentation"]) for r in records])
    if records and "keypoints" in records[0]:
        points = torch.tensor([r["keypoints"] for r in records])
        found["keypoints"] = points.view(len(records), -1, 3)
    return found


def mask_of(encoded: Mapping[str, Any]) -> Tensor:
    """Returns the mask, uint8 [H, W], of a run-length encoding of ``run_lengths``."""
    decode = require("pycocotools.mask", "demo", "the decoding of masks").decode
    return torch.from_numpy(decode(encoded))


def run_lengths(mask: Tensor) -> dict[str, Any]:
    """Returns a mask [H, W] in COCO's compressed run-length encoding, as JSON values."""
    encode = require("pycocotools.mask", "demo", "the encoding of masks").encode
    encoded = encode(np.asfortranarray(mask.byte().cpu().numpy()))
    return {"size": list(encoded["size"]), "counts": encoded["counts"].decode("ascii")}


def objects_of(
    found: dict[str, Tensor], categories: Sequence[str], min_score: float
) -> list[dict[str, Any]]:
    """Returns the objects or regions of an image as JSON values.

    Args:
        found: What a detector returned for the image, or a ``Segmenter``.
        categories: Names of the classes, label 1 first.
        min_score: Objects with a smaller score are left out.

    Returns:
        For each object "category", "score", "box" (x, y, width, height in pixels), and "mask" and
        "keypoints" where there are any; for each class that a segmenter found "category", "pixels"
        (how many) and "mask".
    """
    if "semantic" in found:
        labels = [label for label in torch.unique(found["semantic"]).tolist() if label]
        masks = [(categories[label - 1], found["semantic"] == label) for label in labels]
        return [{"category": name, "pixels": int(mask.sum()), "mask": run_lengths(mask)}
                for name, mask in masks]  # fmt: skip
    names = {"bbox": "box", "segmentation": "mask", "keypoints": "keypoints"}
    return [
        {"category": categories[record["category_id"] - 1], "score": record["score"]}
        | {name: record[key] for key, name in names.items() if key in record}
        for record in coco_records(found, 0, range(1, len(categories) + 1), min_score)
    ]
