"""What a run reports at its end: a table of metrics, and predictions beside ground truth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from bit_backbone.detection.tasks import TrainingSet

COCO_COLUMNS = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR")
PIXEL_ROWS = ("mIoU", "mean_accuracy", "pixel_accuracy")
IOU = "IoU_"


def metrics_table(metrics: dict[str, float], title: str) -> Any:
    """Returns the metrics of an evaluation as a table of rich.

    COCO's have a row for boxes, masks and keypoints each; a segmenter's a row for each mean and
    for each class.
    """
    return _pixel_table(metrics, title) if "mIoU" in metrics else _coco_table(metrics, title)


def _coco_table(metrics: dict[str, float], title: str) -> Any:
    from rich.table import Table

    table = Table("", *COCO_COLUMNS, title=title)
    for kind in dict.fromkeys(name.partition("_")[0] for name in metrics):
        values = [metrics.get(f"{kind}_{column}", -1) for column in COCO_COLUMNS]
        table.add_row(kind, *map(_shown, values))
    return table


def _pixel_table(metrics: dict[str, float], title: str) -> Any:
    from rich.table import Table

    table = Table("", "", title=title)
    for name in PIXEL_ROWS:
        table.add_row(name.replace("_", " "), _shown(metrics[name]))
    table.add_section()
    for name, value in metrics.items():
        if name.startswith(IOU):
            table.add_row(f"IoU of {name.removeprefix(IOU)}", _shown(value))
    return table


def _shown(value: float) -> str:
    # COCO says -1 where nothing of that kind is annotated
    return f"{value:.3f}" if value >= 0 else "-"


def save_comparison(model: nn.Module, dataset: TrainingSet, count: int, path: Path) -> None:
    """Draws predictions beside ground truth, for images spread evenly over a data set.

    Args:
        model: A detector or ``Segmenter``, on any device.
        dataset: Of its categories.
        count: How many images; all, if the data set has fewer.
        path: The JPEG or PNG file to write.
    """
    import torch

    from bit_backbone.utils.files import atomic_path
    from bit_backbone.visualization.objects import comparison, draw_result

    device = next(model.parameters()).device
    count = min(count, len(dataset))
    rows = []
    model.eval()
    for index in range(0, len(dataset) // count * count, len(dataset) // count):
        image, target = dataset[index]
        with torch.inference_mode():
            (found,) = model([image.to(device)])
        names = dataset.categories
        rows.append((draw_result(image, found, names), draw_result(image, target, names)))
    with atomic_path(path) as temporary:
        comparison(rows).save(temporary, "PNG" if path.suffix == ".png" else "JPEG", quality=88)
