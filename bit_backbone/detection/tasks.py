"""What differs between training a detector and a segmenter: the data and the metrics."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from torch import nn

from bit_backbone.datasets.coco import CocoFolder
from bit_backbone.datasets.semantic import SemanticFolder
from bit_backbone.training.evaluation import ignore
from bit_backbone.utils.processes import ONE_PROCESS, ProcessGroup
from bit_backbone.utils.unreadable import Unreadable

TrainingSet = CocoFolder | SemanticFolder


def evaluate_on(
    dataset: TrainingSet,
    model: nn.Module,
    *,
    workers: int = 0,
    group: ProcessGroup = ONE_PROCESS,
    advance: Callable[[int], None] = ignore,
    results: list[dict[str, Any]] | None = None,
    failed: list[Unreadable] | None = None,
) -> dict[str, float]:
    """Returns COCO's average precision, or on a ``SemanticFolder`` the mean IoU.

    Images go through one by one: BiT's norms see padding.

    ``results`` receives what a detector found, in COCO's results format, and ``failed`` the images
    that cannot be read and do not count; without it one of them raises.

    Raises:
        MissingExtraError: Nothing that computes COCO's metrics is installed.
    """
    from bit_backbone.detection.coco_metrics import evaluate as average_precision
    from bit_backbone.detection.segmentation_metrics import evaluate as mean_iou

    options: dict[str, Any] = {"workers": workers, "group": group, "advance": advance}
    options["failed"] = failed
    if isinstance(dataset, SemanticFolder):
        return mean_iou(model, dataset, **options)
    return average_precision(model, dataset, results=results, **options)


def check_objects(train_set: TrainingSet) -> None:
    """Checks that there is an object to learn from.

    Raises:
        ValueError: The training set has no object but crowds, or none at all.
    """
    if train_set.num_objects() == 0:
        raise ValueError(
            "no object to learn from: a training set needs at least one object that is not a "
            "crowd, "
            f"and none of the {len(train_set)} images of {train_set.file} has one; correct its "
            "annotations"
        )


def warn_of_no_objects(test_set: TrainingSet) -> None:
    """Warns where a test set has no object to be found."""
    if test_set.num_objects() == 0:
        warnings.warn(
            f"no object to find: none of the {len(test_set)} images of {test_set.file} has one "
            "that "
            "is not a crowd, so its metrics mean nothing",
            stacklevel=3,
        )


def check_tools(dataset: TrainingSet) -> None:
    """Raises MissingExtraError if what evaluates on a data set is not installed."""
    from bit_backbone.detection.coco_metrics import import_coco_api

    if isinstance(dataset, CocoFolder):
        import_coco_api()
