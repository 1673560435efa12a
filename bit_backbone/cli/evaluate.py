"""``bit-backbone evaluate``: how good a trained detector or segmenter is on a data set."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bit_backbone.cli.data_options import open_test_set
from bit_backbone.cli.options import SOME_FAILED
from bit_backbone.cli.train_options import add_evaluate_options

if TYPE_CHECKING:
    from torch import nn

    from bit_backbone.detection.tasks import TrainingSet
    from bit_backbone.utils.unreadable import Unreadable

PICTURE_NAME = "predictions.jpg"


def add_parser(subparsers: Any) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "evaluate",
        help="evaluate a trained detector or segmenter on a data set",
        description="Prints COCO's average precision, or the mean IoU, of the last saved state of "
        f"a run, and draws predictions beside ground truth in RUN/{PICTURE_NAME}. For several "
        "GPUs or processes: torchrun --nproc-per-node 2 -m bit_backbone evaluate ...",
    )
    add_evaluate_options(parser)
    parser.set_defaults(func=lambda args: evaluate_run(args, args.run))


def evaluate_run(args: argparse.Namespace, run: Path) -> int:
    """Evaluates a run; returns the exit status."""
    from bit_backbone.detection.runs import bit_depth_of, exif_of, load_detector
    from bit_backbone.detection.tasks import evaluate_on, warn_of_no_objects
    from bit_backbone.detection.training import check_categories
    from bit_backbone.training.precision import autocast
    from bit_backbone.training.progress import Progress
    from bit_backbone.utils.processes import process_group

    with process_group(args.device) as group:
        model, spec = load_detector(run, group.device)
        args.bit_depth = args.bit_depth or bit_depth_of(run)
        args.exif = args.exif or exif_of(run)
        test_set = open_test_set(args, spec)
        check_categories(spec, test_set)
        warn_of_no_objects(test_set)
        with Progress(group.is_first) as bars, autocast(group.device, args.precision):
            advance = bars.evaluation(-(-len(test_set) // group.world_size)).advance
            options: dict[str, Any] = {"workers": args.workers, "group": group, "advance": advance}
            found: list[dict[str, Any]] = []
            failed: list[Unreadable] = []
            metrics = evaluate_on(test_set, model, results=found, failed=failed, **options)
    if group.is_first:
        _report(args, failed, len(test_set))
        test_set = test_set.without({failure.index for failure in failed})
        report(args, run, model, test_set, metrics)
        if getattr(args, "report", False):
            write_page(run, model, test_set, metrics, found)
    return SOME_FAILED if failed else 0


def _report(args: argparse.Namespace, failed: list[Unreadable], total: int) -> None:
    """Prints what could not be read; raises where it is too much."""
    from bit_backbone.training.problems import check_share

    for failure in failed:
        print(f"bit-backbone: skipped: {failure.reason}", file=sys.stderr)
    check_share(len(failed), total, args.max_unreadable, "test", "see above")


def without_unreadable(test_set: TrainingSet, run: Path) -> TrainingSet:
    """Returns a set without the images that a run's ``problems.jsonl`` says are unreadable."""
    from bit_backbone.training.problems import UNREADABLE, read_problems

    lost = {record["file"] for record in read_problems(run) if record["kind"] == UNREADABLE}
    indices = {i for i in range(len(test_set)) if str(test_set.path(i)) in lost}
    return test_set.without(indices)


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


def write_page(
    run: Path,
    model: nn.Module,
    test_set: TrainingSet,
    metrics: dict[str, float],
    found: list[dict[str, Any]],
) -> None:
    """Writes ``report.html``, or says in a line why there is none: a run does not fail by it.

    Args:
        run: The folder.
        model: What was evaluated.
        test_set: On what.
        metrics: The result.
        found: What a detector found, in COCO's results format.
    """
    from bit_backbone.datasets.semantic import SemanticFolder
    from bit_backbone.detection import findings, html_report
    from bit_backbone.training.progress import Progress
    from bit_backbone.utils.extras import MissingExtraError
    from bit_backbone.visualization.charts import check_charts

    try:
        check_charts()
        if isinstance(test_set, SemanticFolder):
            with Progress(enabled=True) as bars:
                advance = bars.evaluation(len(test_set)).advance
                found_in = findings.findings_of_segmenter(model.eval(), test_set, advance)
        else:
            found_in = findings.findings_of_detector(test_set, found)
        folder = test_set.instances if isinstance(test_set, SemanticFolder) else test_set
        images = [folder.file_name(index) for index in range(len(folder))]
        print(f"report: {html_report.write_report(run, metrics, found_in, images)}")
    except MissingExtraError as error:
        print(f"no {html_report.REPORT_NAME}: {error}")
