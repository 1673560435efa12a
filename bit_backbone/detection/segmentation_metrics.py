"""Mean intersection over union of a segmenter on a folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bit_backbone.datasets.semantic import IGNORED, SemanticFolder
from bit_backbone.detection.batches import collate
from bit_backbone.training.evaluation import evaluated, ignore
from bit_backbone.utils.processes import ONE_PROCESS, ProcessGroup
from bit_backbone.utils.unreadable import Unreadable


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    dataset: SemanticFolder,
    *,
    batch_size: int = 1,
    workers: int = 0,
    group: ProcessGroup = ONE_PROCESS,
    advance: Callable[[int], None] = ignore,
    failed: list[Unreadable] | None = None,
) -> dict[str, float]:
    """Runs a segmenter on a data set and returns how well pixels are classified.

    The counts of all images are added up before they are divided, as Pascal VOC does (arXiv
    1411.4038, section 5). The model is in eval mode meanwhile, and in its old mode afterwards.

    Args:
        model: A ``Segmenter``.
        dataset: Images and label maps.
        batch_size: Images that are loaded together.
        workers: Loader processes.
        group: The processes; each takes an equal share and gets the same result.
        advance: Called with the number of images of each batch, to show progress.
        failed: Receives the images that cannot be read, which then do not count; None raises for
            one.

    Returns:
        ``mIoU`` over background and categories, ``mean_accuracy``, ``pixel_accuracy`` and
        ``IoU_background``, ``IoU_<category>``, ...; in 0..1, and -1 for a class that is neither
        annotated nor predicted (which the means leave out). Classes that share a name have their
        label after it: ``IoU_cat (3)``.
    """
    count = len(dataset.categories) + 1
    confusion = torch.zeros(count, count, dtype=torch.int64, device=group.device)
    options: dict[str, Any] = {"batch_size": batch_size, "workers": workers, "advance": advance}
    share = evaluated(model, dataset, group, collate=collate, failed=failed, **options)
    for counts, images, targets in share:
        found = model([image.to(group.device) for image in images])
        for is_counted, result, target in zip(counts, found, targets, strict=True):
            if is_counted:
                confusion += confusion_of(result["semantic"], target["semantic"], count)
    return summarize(group.sum(confusion), dataset.categories)


def confusion_of(found: Tensor, truth: Tensor, count: int) -> Tensor:
    """Counts pixels by their true (rows) and found (columns) label, without the ignored."""
    truth = truth.to(found.device)
    counts = truth != IGNORED
    pairs = truth[counts] * count + found[counts]
    return torch.bincount(pairs, minlength=count**2).reshape(count, count)


def summarize(confusion: Tensor, categories: tuple[str, ...]) -> dict[str, float]:
    """Returns the metrics of a confusion matrix, int64 [K, K], rows being the truth."""
    hits = confusion.diagonal().double()
    annotated, found = confusion.sum(1), confusion.sum(0)
    ious, accuracies = hits / (annotated + found - hits), hits / annotated
    metrics = {
        "mIoU": _mean(ious),
        "mean_accuracy": _mean(accuracies),
        "pixel_accuracy": _mean(hits.sum() / annotated.sum()),
    }
    names = _distinct(("background", *categories))
    shown = ious.nan_to_num(nan=-1.0).tolist()
    return metrics | {f"IoU_{name}": iou for name, iou in zip(names, shown, strict=True)}


def _distinct(names: tuple[str, ...]) -> list[str]:
    """Returns the names of the labels 0, 1, ..., with the label where several share one."""
    counts = Counter(names)
    return [n if counts[n] == 1 else f"{n} ({label})" for label, n in enumerate(names)]


def _mean(values: Tensor) -> float:
    return float(values.nanmean().nan_to_num(nan=-1.0))
