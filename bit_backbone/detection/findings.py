"""The contents of a report: results by class and by image, and confusions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor, nn
from torchvision.ops import box_iou

from bit_backbone.datasets.coco import CocoFolder
from bit_backbone.datasets.semantic import SemanticFolder
from bit_backbone.detection.coco_metrics import (
    PREFIX,
    import_coco_api,
    run_evaluations,
)
from bit_backbone.detection.results import found_of
from bit_backbone.detection.segmentation_metrics import confusion_of, summarize
from bit_backbone.visualization.charts import Curve
from bit_backbone.visualization.objects import comparison, draw_result

MATCH_IOU, MIN_SCORE = 0.5, 0.5  # of the confusion matrix and of the images' quality
BACKGROUND = "background"


@dataclass(frozen=True)
class Findings:
    """The contents of a report of an evaluation.

    Attributes:
        classes: Metrics of each class by its name.
        curves: Recall and precision of each class's boxes at IoU 0.5; empty for a segmenter.
        names: Names of the rows and columns of ``confusion``.
        confusion: Counts of objects or pixels, [K + 1, K + 1]; rows are the truth.
        quality: Quality of the result for each image, at most 1.
        weight: Weight of each image: how much there is to find.
        picture: Draws the result for the image at an index beside the ground truth.
    """

    classes: dict[str, dict[str, float]]
    curves: dict[str, Curve]
    names: list[str]
    confusion: np.ndarray
    quality: list[float]
    weight: list[int]
    picture: Callable[[int], Image]


def findings_of_detector(dataset: CocoFolder, records: list[dict[str, Any]]) -> Findings:
    """Returns the findings from a detector's results, given in COCO's results format."""
    document = dataset.document()
    found, true = _by_image(records), _by_image(document["annotations"])
    labels = {id_: label for label, id_ in enumerate(dataset.category_ids, start=1)}
    sizes = len(labels) + 1
    matrices = []
    for image in document["images"]:
        own = [r for r in found[image["id"]] if r["score"] >= MIN_SCORE]
        matrices.append(confusion_of_boxes(own, true[image["id"]], labels, sizes))
    classes, curves = _of_classes(dataset, records)
    images = [found[image["id"]] for image in document["images"]]
    confusion = np.sum(matrices, axis=0)
    # the background stands last, as what is left over
    order = [*range(1, sizes), 0]
    return Findings(
        classes,
        curves,
        [*dataset.categories, BACKGROUND],
        confusion[np.ix_(order, order)],
        [_quality(matrix) for matrix in matrices],
        [int(matrix.sum()) for matrix in matrices],
        partial(_picture_of_boxes, dataset, images, labels),
    )


def confusion_of_boxes(
    found: list[dict[str, Any]], true: list[dict[str, Any]], labels: dict[int, int], size: int
) -> np.ndarray:
    """Counts objects of an image by their true (rows) and found (columns) label, 0 for none.

    Boxes are matched regardless of their classes, in order of their scores, each with the object
    that it overlaps most. Detections in a crowd do not count.

    Args:
        found: Records with "bbox", "category_id" and "score".
        true: Likewise, with "iscrowd".
        labels: By the ids of the categories.
        size: Of the matrix: number of labels, with the background.
    """
    counts = np.zeros((size, size), np.int64)
    crowds = [r for r in true if r["iscrowd"]]
    left = [r for r in true if not r["iscrowd"]]
    for record in sorted(found, key=lambda r: -r["score"]):
        label = labels[record["category_id"]]
        overlaps = box_iou(_boxes([record]), _boxes(left))[0].tolist() if left else [0.0]
        best = max(range(len(overlaps)), key=overlaps.__getitem__)
        if overlaps[best] >= MATCH_IOU:
            counts[labels[left.pop(best)["category_id"]], label] += 1
        elif not _lies_in(record, crowds):
            counts[0, label] += 1
    for record in left:
        counts[labels[record["category_id"]], 0] += 1
    return counts


def _lies_in(record: dict[str, Any], crowds: list[dict[str, Any]]) -> bool:
    x, y, width, height = record["bbox"]
    for left, top, w, h in (crowd["bbox"] for crowd in crowds):
        shared = max(0, min(x + width, left + w) - max(x, left))
        shared *= max(0, min(y + height, top + h) - max(y, top))
        if shared >= MATCH_IOU * width * height:
            return True
    return False


def _by_image(records: list[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    grouped: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        grouped[record["image_id"]].append(record)
    return grouped


def _boxes(records: list[dict[str, Any]]) -> Tensor:
    """Returns x1 y1 x2 y2."""
    boxes = torch.tensor([r["bbox"] for r in records], dtype=torch.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def _quality(confusion: np.ndarray) -> float:
    """Returns the F1 score of objects that are found with their class, 1 where there are none."""
    right = int(np.trace(confusion))
    found, true = int(confusion[:, 1:].sum()), int(confusion[1:].sum())
    return 2 * right / (found + true) if found + true else 1.0


def _of_classes(
    dataset: CocoFolder, records: list[dict[str, Any]]
) -> tuple[dict[str, dict[str, float]], dict[str, Curve]]:
    """Returns AP and AP50 of each class, and its curve of boxes."""
    names = dict(zip(dataset.category_ids, dataset.categories, strict=True))
    classes: dict[str, dict[str, float]] = {name: {} for name in dataset.categories}
    curves: dict[str, Curve] = {}
    for kind, evaluation in run_evaluations(import_coco_api(), dataset, records).items():
        # [IoU thresholds, recalls, categories, areas (all first), most detections (most last)]
        precision = np.asarray(evaluation.eval["precision"])[:, :, :, 0, -1]
        for index, id_ in enumerate(evaluation.params.catIds):
            own, prefix = precision[:, :, index], PREFIX[kind]
            values = {f"{prefix} AP": own, f"{prefix} AP50": own[:1]}
            classes[names[id_]] |= {
                name: float(part.mean()) if part.min() >= 0 else -1.0  # none annotated
                for name, part in values.items()
            }
            if kind == "bbox" and own.min() >= 0:
                recalls = evaluation.params.recThrs
                curves[names[id_]] = list(map(float, recalls)), own[0].tolist()
    return classes, curves


def _picture_of_boxes(
    dataset: CocoFolder,
    images: list[list[dict[str, Any]]],
    labels: dict[int, int],
    index: int,
) -> Image:
    image, target = dataset[index]
    records = [r for r in images[index] if r["score"] >= MIN_SCORE]
    found = found_of(records, labels)
    pair = (
        draw_result(image, found, dataset.categories),
        draw_result(image, target, dataset.categories),
    )
    return comparison([pair])


@torch.inference_mode()
def findings_of_segmenter(
    model: nn.Module, dataset: SemanticFolder, advance: Callable[[int], None]
) -> Findings:
    """Returns what a ``Segmenter`` finds on a data set."""
    size, device = len(dataset.categories) + 1, next(model.parameters()).device
    matrices = []
    for index in range(len(dataset)):
        image, target = dataset[index]
        (found,) = model([image.to(device)])
        matrices.append(confusion_of(found["semantic"], target["semantic"], size).cpu())
        advance(1)
    metrics = summarize(torch.stack(matrices).sum(0), dataset.categories)
    ious = {name: value for name, value in metrics.items() if name.startswith("IoU_")}
    return Findings(
        {name.removeprefix("IoU_"): {"IoU": value} for name, value in ious.items()},
        {},
        [BACKGROUND, *dataset.categories],
        torch.stack(matrices).sum(0).numpy(),
        [summarize(matrix, dataset.categories)["mIoU"] for matrix in matrices],
        [int((matrix.sum(1) > 0).sum()) for matrix in matrices],
        partial(_picture_of_map, model, dataset),
    )


@torch.inference_mode()
def _picture_of_map(model: nn.Module, dataset: SemanticFolder, index: int) -> Image:
    image, target = dataset[index]
    (found,) = model([image.to(next(model.parameters()).device)])
    names = dataset.categories
    return comparison([(draw_result(image, found, names), draw_result(image, target, names))])
