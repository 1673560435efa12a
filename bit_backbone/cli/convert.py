"""``bit-backbone convert``: a checkpoint in another codebase's names."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from bit_backbone.cli.networks import add_part_option
from bit_backbone.detection.trained import weights_of

FORMATS = ("npz", "torch", "timm", "transformers", "detectron2", "native")


def add_parser(subparsers: Any) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "convert",
        help="convert a checkpoint for another codebase",
        description="Converts a checkpoint between the formats of google-research/big_transfer "
        "(npz, torch), timm, transformers, detectron2 and this package (native). No value changes.",
    )
    parser.add_argument(
        "source", help="a checkpoint file or folder, a published name, or owner/name on the Hub"
    )
    parser.add_argument(
        "target",
        help="file to write: .npz for npz; .pth or .pkl for detectron2; .safetensors, .pth, .pt or "
        ".bin for the others; without a suffix, a folder as transformers saves it",
    )
    parser.add_argument("--format", required=True, choices=FORMATS, help="format to write")
    parser.add_argument(
        "--head",
        choices=("keep", "drop"),
        default="keep",
        help="keep (default) or drop the classification head, which detectors do not need",
    )
    parser.add_argument(
        "--prefix",
        help="prefix of every name; default: the format's own (for detectron2 backbone.bottom_up., "
        "as an FPN needs it; a backbone without FPN needs backbone.)",
    )
    add_part_option(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace an existing target")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> None:
    """Converts, and says what was written."""
    from bit_backbone.checkpoints import convert

    report = convert(
        weights_of(args.source),
        args.target,
        args.format,
        head=args.head,
        overwrite=args.overwrite,
        prefix=args.prefix,
        part=args.part,
        progress=sys.stderr.isatty(),
    )
    print(report)
