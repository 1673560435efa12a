"""What tools/train_torchvision.py does."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bit_backbone.cli.options import device_of
from bit_backbone.cli.train_options import (
    build_parser,
    open_set,
    precision_of,
    settings_of,
    spec_of,
)
from bit_backbone.utils.extras import MissingExtraError
from bit_backbone.utils.out_of_memory import fitting

if TYPE_CHECKING:
    from torch import nn

    from bit_backbone.detection.tasks import TrainingSet

USAGE_ERROR = 2  # what argparse itself exits with
SIGNALLED = 128
PICTURE_NAME = "predictions.jpg"


def main(argv: Sequence[str] | None = None) -> int:
    """Trains or evaluates; returns the exit status.

    0 at the end, 2 after an error in what the user gave, 128 + its number after a signal.
    """
    args = build_parser().parse_args(argv)
    try:
        with fitting("the command"):
            return _test_only(args) if args.test_only else _train(args)
    except KeyboardInterrupt:  # outside of training, which saves first
        print("train_torchvision.py: interrupted", file=sys.stderr)
        return SIGNALLED + signal.SIGINT
    except (ValueError, OSError, MissingExtraError) as error:
        print(f"train_torchvision.py: error: {error}", file=sys.stderr)
        return USAGE_ERROR


def _train(args: argparse.Namespace) -> int:
    from bit_backbone.detection.models import check_name
    from bit_backbone.detection.runs import load_detector
    from bit_backbone.detection.tasks import check_tools
    from bit_backbone.detection.training import train
    from bit_backbone.inference.allocator import keep_pages
    from bit_backbone.utils.processes import is_first_process

    check_name(args.model)
    train_set, test_set = (open_set(args, split, args.model) for split in ("train", "test"))
    check_tools(test_set)  # before hours of training, not behind them
    spec, settings = spec_of(args, train_set), settings_of(args, len(train_set))
    if is_first_process():
        _announce(args, len(train_set), len(test_set), settings)
    if _device(args).type == "cpu":
        keep_pages()  # a step's maps are freed and asked for again all the time
    result = train(spec, train_set, args.output, settings, eval_set=test_set, device=args.device)
    if is_first_process() and result.signal:
        print(f"stopped at step {result.step} and saved; the same command goes on from there")
    elif is_first_process():
        assert result.metrics is not None  # there is an evaluation set, and the end was reached
        model, _ = load_detector(args.output, _device(args))  # a sharded one ended with its run
        _report(args, model, test_set, result.metrics)
    return SIGNALLED + result.signal if result.signal else 0


def _test_only(args: argparse.Namespace) -> int:
    from bit_backbone.detection.runs import load_detector
    from bit_backbone.detection.tasks import evaluate_on
    from bit_backbone.detection.training import check_categories
    from bit_backbone.training.precision import autocast
    from bit_backbone.training.progress import Progress
    from bit_backbone.utils.processes import process_group

    with process_group(args.device) as group:
        model, spec = load_detector(args.output, group.device)
        test_set = open_set(args, "test", spec.name)
        check_categories(spec, test_set)
        with Progress(group.is_first) as bars, autocast(group.device, precision_of(args)):
            advance = bars.evaluation(-(-len(test_set) // group.world_size)).advance
            options: dict[str, Any] = {"workers": args.workers, "group": group, "advance": advance}
            metrics = evaluate_on(test_set, model, **options)
    if group.is_first:
        _report(args, model, test_set, metrics)
    return 0


def _device(args: argparse.Namespace) -> Any:
    import torch

    return torch.device(device_of(args))


def _announce(args: argparse.Namespace, train: int, test: int, settings: Any) -> None:
    print(
        f"{args.model}: {settings.steps} steps of {settings.batch_size} out of {train} images, "
        f"{test} for the test; run and log.jsonl in {args.output}"
    )


def _report(
    args: argparse.Namespace, model: nn.Module, test_set: TrainingSet, metrics: dict[str, float]
) -> None:
    from bit_backbone.cli.output import Output
    from bit_backbone.detection.reports import metrics_table, save_comparison

    Output().print(metrics_table(metrics, f"{len(test_set)} test images"))
    if args.pictures > 0:
        picture = args.output / PICTURE_NAME
        save_comparison(model, test_set, args.pictures, picture)
        print(f"predictions beside ground truth: {picture}")
