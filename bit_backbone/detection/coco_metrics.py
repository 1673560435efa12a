"""COCO's average precision of a detector on a folder, by the reference implementation."""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from bit_backbone.datasets.coco import CocoFolder
from bit_backbone.detection.batches import collate
from bit_backbone.detection.results import coco_records
from bit_backbone.training.evaluation import evaluated, ignore
from bit_backbone.utils.extras import require
from bit_backbone.utils.processes import ONE_PROCESS, ProcessGroup
from bit_backbone.utils.unreadable import Unreadable

# The names of COCOeval's summary, in its order.
_PRECISIONS = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
_RECALLS = ("AR_1", "AR_10", "AR", "AR_small", "AR_medium", "AR_large")
_SUMMARY = _PRECISIONS + _RECALLS
_KEYPOINT_PRECISIONS = ("AP", "AP50", "AP75", "AP_medium", "AP_large")
_KEYPOINT_SUMMARY = (*_KEYPOINT_PRECISIONS, "AR", "AR50", "AR75", "AR_medium", "AR_large")
PREFIX = {"bbox": "box", "segm": "mask", "keypoints": "keypoint"}
MAX_DETECTIONS = 100  # of an image
PERSON_KEYPOINTS = 17
# COCO measured a standard deviation for each of a person's keypoints; other sets have none, and get
# the mean of those: https://cocodataset.org/#keypoints-eval
OTHER_SIGMA = 0.062


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    dataset: CocoFolder,
    *,
    batch_size: int = 1,
    workers: int = 0,
    group: ProcessGroup = ONE_PROCESS,
    advance: Callable[[int], None] = ignore,
    results: list[dict[str, Any]] | None = None,
    failed: list[Unreadable] | None = None,
) -> dict[str, float]:
    """Runs a detector on a data set and returns COCO's metrics.

    Uses faster-coco-eval if it is installed, otherwise pycocotools; both compute the same. The
    model is evaluated in eval mode, and then returns to its earlier mode.

    Args:
        model: Maps a list of images in 0..1 to a list of detections, like torchvision's detectors.
        dataset: The data set; its masks and keypoints are evaluated if it yields them.
        batch_size: Images of one forward pass. Several images are padded to a common size, which
            changes the group norms of BiT: an image then has other features than by itself.
        workers: Loader processes.
        group: The processes. Each takes an equal share and gets the same result.
        advance: Called with the length of each batch, to show progress.
        results: A list to which the detections are added, in COCO's results format.
        failed: A list to which unreadable images are added, which then do not count. With None they
            raise an error.

    Returns:
        ``box_AP`` (over IoU 0.5 to 0.95), ``box_AP50``, ``box_AP75``, ..., likewise ``mask_`` and
        ``keypoint_``; in 0..1, and -1 where no object of that size is annotated.

    Raises:
        MissingExtraError: Neither of the two packages is installed.
    """
    coco_api = import_coco_api()
    records: list[dict[str, Any]] = []
    options: dict[str, Any] = {"batch_size": batch_size, "workers": workers, "advance": advance}
    share = evaluated(model, dataset, group, collate=collate, failed=failed, **options)
    for counts, images, targets in share:
        detections = model([image.to(group.device) for image in images])
        for is_counted, target, detection in zip(counts, targets, detections, strict=True):
            if is_counted:
                records += coco_records(detection, target["image_id"], dataset.category_ids)
    everything = [record for own in group.gather(records) for record in own]
    if results is not None:
        results[:] = everything
    if failed is not None:
        dataset = dataset.without({failure.index for failure in failed})
    return summarize(coco_api, dataset, everything)


def import_coco_api() -> tuple[Any, Any]:
    """Returns the classes COCO and COCOeval, of faster-coco-eval where it is installed.

    Raises:
        MissingExtraError: Neither package is installed.
    """
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError:
        coco = require("pycocotools.coco", "demo", "COCO's average precision").COCO
        return coco, require("pycocotools.cocoeval", "demo", "COCO's average precision").COCOeval
    return COCO, COCOeval_faster


def summarize(
    coco_api: tuple[Any, Any], dataset: CocoFolder, records: list[dict[str, Any]]
) -> dict[str, float]:
    """Returns the metrics of detections in COCO's results format."""
    metrics: dict[str, float] = {}
    for kind, evaluation in run_evaluations(coco_api, dataset, records).items():
        names = _KEYPOINT_SUMMARY if kind == "keypoints" else _SUMMARY
        values = np.asarray(evaluation.stats, float)[: len(names)].tolist()
        metrics |= {
            f"{PREFIX[kind]}_{name}": value for name, value in zip(names, values, strict=True)
        }
    return metrics


def run_evaluations(
    coco_api: tuple[Any, Any], dataset: CocoFolder, records: list[dict[str, Any]]
) -> dict[str, Any]:
    """Returns COCO's evaluation, summarized, of each kind that the data set has.

    COCO counts the 100 detections of an image with the highest scores. If an image has more
    objects, as many detections count. For keypoints the 20 highest scores count.
    """
    coco, coco_eval = coco_api
    crowded = most_objects(dataset)
    evaluations: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco()
        truth.dataset = dataset.document()
        truth.createIndex()
        for kind in _kinds(dataset):
            # loadRes takes a record with a box for a box's, whatever else it holds.
            own = [_only(record, kind) for record in records]
            evaluation = coco_eval(truth, _load(truth, own), kind)
            if kind == "keypoints":
                evaluation.params.kpt_oks_sigmas = _sigmas(len(dataset.keypoint_names))
            is_crowded = kind != "keypoints" and crowded > MAX_DETECTIONS
            if is_crowded:
                evaluation.params.maxDets = [1, 10, crowded]
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            if is_crowded:
                evaluation.stats[0] = _mean_precision(evaluation)
            evaluations[kind] = evaluation
    return evaluations


def most_objects(dataset: CocoFolder) -> int:
    """Returns how many objects the fullest image has, crowds apart."""
    objects = dataset.document()["annotations"]
    counts = Counter(object_["image_id"] for object_ in objects if not object_["iscrowd"])
    return max(counts.values(), default=0)


def _mean_precision(evaluation: Any) -> float:
    """Returns AP over all sizes; COCO's own summary of it knows 100 detections only."""
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    counted = precision[precision > -1]
    return float(counted.mean()) if counted.size else -1.0


def _kinds(dataset: CocoFolder) -> list[str]:
    masks, keypoints = dataset.masks, bool(dataset.keypoint_names)
    return ["bbox", *["segm"] * masks, *["keypoints"] * keypoints]


def _only(record: dict[str, Any], kind: str) -> dict[str, Any]:
    key = "segmentation" if kind == "segm" else kind
    return {k: record[k] for k in ("image_id", "category_id", "score", key)}


def _load(truth: Any, records: list[dict[str, Any]]) -> Any:
    if records:
        return truth.loadRes(records)
    # loadRes looks into the first record.
    nothing = type(truth)()
    nothing.dataset = truth.dataset | {"annotations": []}
    nothing.createIndex()
    return nothing


def _sigmas(count: int) -> np.ndarray:
    if count == PERSON_KEYPOINTS:
        params = require("pycocotools.cocoeval", "demo", "COCO's keypoint evaluation").Params
        return params(iouType="keypoints").kpt_oks_sigmas
    return np.full(count, OTHER_SIGMA)
