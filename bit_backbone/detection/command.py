"""What tools/train_torchvision.py does."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bit_backbone._extras import MissingExtraError
from bit_backbone.detection.options import build_parser, open_set, settings_of, spec_of

if TYPE_CHECKING:
    from torch import nn

    from bit_backbone.datasets.coco import CocoFolder

USAGE_ERROR = 2  # what argparse itself exits with
SIGNALLED = 128
PICTURE_NAME = "detections.jpg"


def main(argv: Sequence[str] | None = None) -> int:
    """Trains or evaluates; returns the exit status.

    0 at the end, 2 after an error in what the user gave, 128 + its number after a signal.
    """
    args = build_parser().parse_args(argv)
    try:
        return _test_only(args) if args.test_only else _train(args)
    except (ValueError, OSError, MissingExtraError) as error:
        print(f"train_torchvision.py: error: {error}", file=sys.stderr)
        return USAGE_ERROR


def _train(args: argparse.Namespace) -> int:
    from bit_backbone.detection.evaluation import import_coco_api
    from bit_backbone.detection.models import check_name
    from bit_backbone.detection.training import train

    check_name(args.model)
    import_coco_api()  # before hours of training, not behind them
    train_set, test_set = (open_set(args, split, args.model) for split in ("train", "test"))
    spec, settings = spec_of(args, train_set), settings_of(args, len(train_set))
    _announce(args, len(train_set), len(test_set), settings)
    result = train(spec, train_set, args.output, settings, eval_set=test_set, device=_device(args))
    if result.signal:
        print(f"stopped at step {result.step} and saved; the same command goes on from there")
        return SIGNALLED + result.signal
    assert result.metrics is not None  # there is an evaluation set, and the end was reached
    _report(args, result.model, test_set, result.metrics)
    return 0


def _test_only(args: argparse.Namespace) -> int:
    from bit_backbone.detection.evaluation import evaluate
    from bit_backbone.detection.runs import load_detector
    from bit_backbone.detection.training import check_categories
    from bit_backbone.training.progress import Progress

    model, spec = load_detector(args.output, _device(args))
    test_set = open_set(args, "test", spec.name)
    check_categories(spec, test_set)
    with Progress(enabled=True) as progress:
        bar = progress.evaluation(len(test_set))
        metrics = evaluate(
            model,
            test_set,
            workers=args.workers,
            device=_device(args),
            advance=bar.advance,
        )
    _report(args, model, test_set, metrics)
    return 0


def _device(args: argparse.Namespace) -> Any:
    import torch

    return torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))


def _announce(args: argparse.Namespace, train: int, test: int, settings: Any) -> None:
    print(
        f"{args.model}: {settings.steps} steps of {settings.batch_size} out of {train} images, "
        f"{test} for the test; run and log.jsonl in {args.output}"
    )


def _report(
    args: argparse.Namespace, model: nn.Module, test_set: CocoFolder, metrics: dict[str, float]
) -> None:
    from rich.console import Console

    Console().print(metrics_table(metrics, f"{len(test_set)} test images"))
    if args.pictures > 0:
        picture = args.output / PICTURE_NAME
        save_comparison(model, test_set, args.pictures, picture)
        print(f"detections beside ground truth: {picture}")


def metrics_table(metrics: dict[str, float], title: str) -> Any:
    """Returns COCO's metrics as a table of rich, a row for boxes, masks and keypoints each."""
    from rich.table import Table

    columns = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR")
    table = Table("", *columns, title=title)
    for kind in dict.fromkeys(name.partition("_")[0] for name in metrics):
        values = [metrics.get(f"{kind}_{column}", -1) for column in columns]
        # COCO says -1 where nothing of that size is annotated
        table.add_row(kind, *(f"{value:.3f}" if value >= 0 else "-" for value in values))
    return table


def save_comparison(model: nn.Module, dataset: CocoFolder, count: int, path: Path) -> None:
    """Draws detections beside ground truth, for images spread evenly over a data set.

    Args:
        model: A detector, on any device.
        dataset: Of its categories.
        count: How many images; all, if the data set has fewer.
        path: The JPEG or PNG file to write.
    """
    import torch

    from bit_backbone._files import atomic_path
    from bit_backbone.detection.drawing import comparison, draw_objects

    device = next(model.parameters()).device
    count = min(count, len(dataset))
    rows = []
    model.eval()
    for index in range(0, len(dataset) // count * count, len(dataset) // count):
        image, target = dataset[index]
        with torch.inference_mode():
            (found,) = model([image.to(device)])
        names = dataset.categories
        rows.append((draw_objects(image, found, names), draw_objects(image, target, names)))
    with atomic_path(path) as temporary:
        comparison(rows).save(temporary, "PNG" if path.suffix == ".png" else "JPEG", quality=88)
