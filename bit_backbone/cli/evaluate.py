"""``bit-backbone evaluate``: how good a trained detector or segmenter is on a data set."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bit_backbone.cli.train_options import add_evaluate_options, open_set

if TYPE_CHECKING:
    from torch import nn

    from bit_backbone.detection.tasks import TrainingSet

PICTURE_NAME = "predictions.jpg"


def add_parser(subparsers: Any) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "evaluate",
        help="evaluate a trained detector or segmenter on a data set",
        description="Prints COCO's average precision, or the mean IoU, of a run as it was last "
        f"saved, and draws predictions beside ground truth into RUN/{PICTURE_NAME}. For several "
        "GPUs or processes: torchrun --nproc-per-node 2 -m bit_backbone evaluate ...",
    )
    add_evaluate_options(parser)
    parser.set_defaults(func=lambda args: evaluate_run(args, args.run))


def evaluate_run(args: argparse.Namespace, run: Path) -> int:
    """Evaluates a run; returns the exit status."""
    from bit_backbone.detection.runs import load_detector
    from bit_backbone.detection.tasks import evaluate_on
    from bit_backbone.detection.training import check_categories
    from bit_backbone.training.precision import autocast
    from bit_backbone.training.progress import Progress
    from bit_backbone.utils.processes import process_group

    with process_group(args.device) as group:
        model, spec = load_detector(run, group.device)
        test_set = open_set(args, "test", spec.name)
        check_categories(spec, test_set)
        with Progress(group.is_first) as bars, autocast(group.device, args.precision):
            advance = bars.evaluation(-(-len(test_set) // group.world_size)).advance
            options: dict[str, Any] = {"workers": args.workers, "group": group, "advance": advance}
            metrics = evaluate_on(test_set, model, **options)
    if group.is_first:
        report(args, run, model, test_set, metrics)
    return 0


def report(
    args: argparse.Namespace,
    run: Path,
    model: nn.Module,
    test_set: TrainingSet,
    metrics: dict[str, float],
) -> None:
    """Prints metrics, and draws as many pictures as are wanted."""
    from bit_backbone.cli.output import Output
    from bit_backbone.detection.reports import metrics_table, save_comparison

    Output().print(metrics_table(metrics, f"{len(test_set)} test images"))
    if args.pictures > 0:
        picture = run / PICTURE_NAME
        save_comparison(model, test_set, args.pictures, picture)
        print(f"predictions beside ground truth: {picture}")
