"""``bit-backbone classify``: the most probable classes of images."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bit_backbone.cli.exported import exported_model
from bit_backbone.cli.image_options import add_bit_depth_option
from bit_backbone.cli.networks import add_part_option
from bit_backbone.cli.options import (
    SOME_FAILED,
    add_device_option,
    add_inference_precision_option,
    add_weights_option,
    device_of,
    inference_dtype,
    positive,
)
from bit_backbone.detection.trained import weights_of
from bit_backbone.finetune.opening import FALLBACK_PRESET, classifier_of, processor_of

if TYPE_CHECKING:
    from bit_backbone.export import ExportedModel
    from bit_backbone.finetune.classification import Prediction
    from bit_backbone.preprocessing import BitImageProcessor


def add_parser(subparsers: Any) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "classify",
        help="print the most probable classes of images",
        description="Prints the most probable classes of each image. An image that cannot be read "
        "or does not fit into memory is reported and skipped; the exit status is then 3.",
    )
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    text = (
        "a published name, a checkpoint file or folder, the folder of a fine-tuning run, or an "
        "exported file"
    )
    add_weights_option(parser, "NAME", text, required=True)
    add_part_option(parser)
    parser.add_argument(
        "--top", type=positive, default=5, metavar="K", help="classes per image (default 5)"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object per image")
    parser.add_argument(
        "--preset",
        help="preprocessing: a preset or a published name; default: the checkpoint's own, or "
        f"{FALLBACK_PRESET!r} if it has none",
    )
    parser.add_argument(
        "--labels",
        type=Path,
        metavar="FILE",
        help="class names, one per line; default: the checkpoint's, or ImageNet's for 1000 classes",
    )
    parser.add_argument(
        "--batch-size", type=positive, default=8, metavar="N", help="images per batch (default 8)"
    )
    parser.add_argument(
        "--workers", type=int, default=0, metavar="N", help="processes that read images (default 0)"
    )
    add_bit_depth_option(parser, default=None)
    add_inference_precision_option(parser)
    add_device_option(parser)
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Classifies and prints; returns the exit status."""
    from bit_backbone.finetune.classification import classify
    from bit_backbone.finetune.labels import class_names, read_labels
    from bit_backbone.heads import BitForImageClassification
    from bit_backbone.inference import optimize_in_place

    model, processor = _open(args)
    model = model.to(device_of(args))
    if isinstance(model, BitForImageClassification):
        model = optimize_in_place(model, dtype=inference_dtype(args.precision))
    names = class_names(model.config, None if args.labels is None else read_labels(args.labels))
    predictions = classify(
        model, processor.replace(bit_depth=args.bit_depth), args.images,
        top_k=args.top, batch_size=args.batch_size, workers=args.workers,
    )  # fmt: skip
    show = _print_json if args.json else _print_table
    failed = 0
    for prediction in _tracked(predictions, len(args.images)):
        if prediction.error is not None:
            failed += 1
            print(f"bit-backbone: skipped {prediction.path}: {prediction.error}", file=sys.stderr)
        show(prediction, names)
    done = len(args.images) - failed
    print(f"{done} of {len(args.images)} images classified, {failed} failed", file=sys.stderr)
    return SOME_FAILED if failed else 0


def _open(args: argparse.Namespace) -> tuple[Any, BitImageProcessor]:
    """Returns the classifier, or the exported file of one, and its preprocessing."""
    exported = exported_model(args, "classification", "classify")
    if exported is not None:
        return exported, _own_processor(exported, args.preset)
    weights = weights_of(args.weights)
    return classifier_of(weights, args.part), processor_of(weights, args.preset)


def _own_processor(exported: ExportedModel, preset: str | None) -> BitImageProcessor:
    return exported.processor if preset is None else processor_of("", preset)


def _tracked(predictions: Iterable[Prediction], total: int) -> Iterator[Prediction]:
    """Shows a progress bar on stderr; results go to stdout, above the bar on a terminal."""
    from bit_backbone.utils.progress import Bars

    with Bars(redirect_stdout=sys.stdout.isatty(), transient=True) as bar:
        yield from bar.track(predictions, total=total, description="classifying")


def _print_json(prediction: Prediction, names: tuple[str, ...]) -> None:
    values: dict[str, Any] = {"image": str(prediction.path)}
    if prediction.error is not None:
        values["error"] = prediction.error
    else:
        values["predictions"] = [
            {"class": index, "label": names[index], "probability": probability}
            for index, probability in zip(prediction.classes, prediction.probabilities, strict=True)
        ]
    print(json.dumps(values), flush=True)


def _print_table(prediction: Prediction, names: tuple[str, ...]) -> None:
    if prediction.error is not None:
        return
    print(prediction.path)
    for index, probability in zip(prediction.classes, prediction.probabilities, strict=True):
        print(f"  {probability:6.1%}  {names[index]}")
