"""``bit-backbone export``: what was trained here as a file that another runtime runs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bit_backbone.cli.networks import (
    add_network_options,
    add_part_option,
    checkpoint_config,
    network_overrides,
)
from bit_backbone.cli.options import image_size
from bit_backbone.detection.trained import weights_of
from bit_backbone.finetune.opening import classifier_of, processor_of

if TYPE_CHECKING:
    from bit_backbone.export import ExportReport
    from bit_backbone.export.sources import Exportable

FORMATS = ("onnx", "openvino", "torch-export", "aoti", "torchscript")
PRECISIONS = ("float32", "bfloat16", "float16", "int8")
DESCRIPTION = """
Writes a detector, segmenter, classifier or backbone as a file that runs without this package. The
command runs the file on three images and compares the results with the model's; if they differ,
nothing is written. A checkpoint is exported as a classifier, or with --out-indices or
--out-features as a backbone.
"""


def add_parser(subparsers: Any) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "export",
        help="write a model for ONNX Runtime, OpenVINO or plain torch",
        description=DESCRIPTION,
    )
    option = parser.add_argument
    option(
        "source",
        metavar="SOURCE",
        help="folder of a run of train or finetune, a checkpoint file or folder, a published name, "
        "owner/name on the Hub, or a detectron2 configuration (*.yaml)",
    )
    option(
        "--weights",
        metavar="FILE",
        help="weights for a detectron2 configuration, instead of its MODEL.WEIGHTS",
    )
    _add_file_options(parser)
    option(
        "--images",
        type=Path,
        metavar="DIR",
        help="images to verify the file with; default: parts of two photographs",
    )
    option(
        "--preset", help="preprocessing of a classifier: name of a preset or of published weights"
    )
    add_part_option(parser)
    add_network_options(parser, without="the whole model")
    parser.set_defaults(func=run)


def _add_file_options(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    option("--format", required=True, choices=FORMATS, help="format of the file")
    option(
        "--output",
        type=Path,
        required=True,
        metavar="FILE",
        help="NAME.onnx; NAME.xml for openvino, which also writes NAME.bin; NAME.pt2 for "
        "torch-export and aoti; NAME.pt for torchscript",
    )
    option(
        "--image-size",
        type=image_size,
        metavar="HxW",
        help="fix the image size; default: any size, and any batch size except for detectors",
    )
    option(
        "--precision",
        choices=PRECISIONS,
        default=PRECISIONS[0],
        help="type in which BiT computes (default %(default)s); bfloat16 is not for onnx and "
        "openvino; int8 (8-bit convolutions) is only for these two",
    )
    option(
        "--with-preprocessing",
        action="store_true",
        help="the file takes an RGB image as it is read, uint8 [height, width, 3]",
    )
    option(
        "--with-nms",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="whether a detector's file suppresses overlapping boxes (default) or returns all "
        "candidates",
    )


def run(args: argparse.Namespace) -> None:
    """Exports, and prints how the file compares."""
    from bit_backbone.export import export
    from bit_backbone.export.settings import ExportSettings, check_target

    settings = {
        "format": args.format,
        "image_size": args.image_size,
        "precision": args.precision,
        "with_preprocessing": args.with_preprocessing,
        "with_nms": args.with_nms,
    }
    ExportSettings(**settings)
    check_target(args.output, args.format)
    found = _open(args)
    report = export(found.model, args.output, **settings, images=args.images, **found.details)
    _print(report)


def _open(args: argparse.Namespace) -> Exportable:
    from bit_backbone.backbone import BitBackbone
    from bit_backbone.export.sources import (
        Exportable,
        is_config,
        is_run,
        of_classifier,
        open_config,
        open_run,
    )
    from bit_backbone.finetune.labels import class_names

    asks_for_maps = bool(args.out_indices or args.out_features)
    if is_config(Path(args.source)):
        return open_config(Path(args.source), args.weights)
    if args.weights is not None:
        raise ValueError(
            f"--weights belongs to a detectron2 configuration, and {args.source} is none: name the "
            "weights as SOURCE"
        )
    if is_run(Path(args.source)) and not asks_for_maps:
        return open_run(Path(args.source))
    weights = weights_of(args.source)
    if asks_for_maps:
        overrides = network_overrides(args, checkpoint_config(weights, args.part))
        return Exportable(BitBackbone.from_pretrained(weights, part=args.part, **overrides))
    model = classifier_of(weights, args.part)
    return of_classifier(model, processor_of(weights, args.preset), class_names(model.config))


def _print(report: ExportReport) -> None:
    from rich.table import Table

    from bit_backbone.cli.output import Output

    table = Table("image", "difference from the model", "file ms", "PyTorch ms")
    for check in report.checks:
        size = f"{check.size[0]}x{check.size[1]}"
        times = f"{check.file_ms:.1f}", f"{check.model_ms:.1f}"
        table.add_row(size, check.difference.text, *times)
    console = Output.of_tables()
    console.print(table)
    if not any(check.difference.compares for check in report.checks):
        console.print("nothing was detected in these images: give --images with objects to detect")
    console.print(
        f"{report.path}: {report.format}, {report.task}, {report.size / 1e6:.1f} MB", soft_wrap=True
    )
