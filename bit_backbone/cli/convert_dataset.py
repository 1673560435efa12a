"""``bit-backbone convert-dataset``: a data set of another format as a COCO folder."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bit_backbone.cli.data_options import add_exif_option, add_format_options, add_invalid_option

if TYPE_CHECKING:
    from bit_backbone.datasets import CocoFolder

DESCRIPTION = """
Converts a Pascal VOC or YOLO data set to COCO's format: DEST/instances.json, and copies of the
images in DEST/images. A data set with a training and a test part becomes DEST/train and DEST/test,
and so does one that --split divides. A COCO data set is checked and repaired.
"""


def add_parser(subparsers: Any) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "convert-dataset",
        help="convert a Pascal VOC or YOLO data set to COCO's format",
        description=DESCRIPTION,
    )
    parser.add_argument(
        "source", type=Path, metavar="SRC", help="folder of the data set, or its data.yaml"
    )
    parser.add_argument("target", type=Path, metavar="DEST", help="folder to create")
    add_format_options(parser)
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="for --split (default 0)")
    add_invalid_option(parser)
    add_exif_option(parser)
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> None:
    """Writes every part and prints what is in it."""
    from bit_backbone.datasets.formats.writing import write_document

    for folder, dataset in _datasets(args).items():
        write_document(dataset, folder)
        objects = len(dataset.document()["annotations"])
        print(f"{folder}: {len(dataset)} images, {objects} objects of {len(dataset.categories)} "
              f"categories")  # fmt: skip


def _datasets(args: argparse.Namespace) -> dict[Path, CocoFolder]:
    """Returns what to write, all of it checked, by the folder where it goes."""
    from bit_backbone.datasets import CocoFolder, open_document, split_document
    from bit_backbone.datasets.formats.building import PARTS
    from bit_backbone.datasets.formats.opening import has_part

    options: dict[str, Any] = {"format": args.format, "exif": args.exif}
    if args.split is not None:
        divided = split_document(open_document(args.source, **options), args.split, args.seed)
        documents = dict(zip(PARTS, divided, strict=True))
    elif all(has_part(args.source, part, format=args.format) for part in PARTS):
        documents = {part: open_document(args.source, part, **options) for part in PARTS}
    else:
        documents = {"": open_document(args.source, **options)}
    return {
        args.target / part: CocoFolder(document, on_invalid=args.on_invalid, exif=args.exif)
        for part, document in documents.items()
    }
