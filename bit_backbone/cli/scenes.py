"""``bit-backbone scenes``: make a detection set out of what ships with scikit-learn."""

import argparse
from typing import Any

from bit_backbone.cli.options import image_size
from bit_backbone.datasets.digits.scenes import DigitScenes
from bit_backbone.datasets.digits.sources import SPLITS

DESCRIPTION = """
Makes DigitScenes, a data set of handwritten digits on photographs, in COCO's format: for detection,
instance and semantic segmentation, and keypoints. The same arguments give the same bytes. A folder
that was already built with them stays as it is.
"""


def add_parser(subparsers: Any) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "scenes",
        help="make DigitScenes, a small data set of digits",
        description=DESCRIPTION,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    option = parser.add_argument
    option("output", metavar="OUTPUT", help="folder to make")
    option(
        "--split",
        choices=SPLITS,
        default=DigitScenes.split,
        help="part; the parts share neither digits nor photographs",
    )
    option(
        "--images", type=int, default=DigitScenes.num_images, metavar="N", help="number of images"
    )
    option(
        "--image-size",
        type=image_size,
        default="{}x{}".format(*DigitScenes.image_size),
        metavar="HxW",
        help="height and width in pixels",
    )
    pair: dict[str, Any] = {"type": int, "nargs": 2, "metavar": ("MIN", "MAX")}
    option("--objects", default=DigitScenes.num_objects, help="objects per image", **pair)
    option(
        "--digit-height",
        default=DigitScenes.digit_height,
        help="height of a digit in pixels",
        **pair,
    )
    option("--seed", type=int, default=DigitScenes.seed, help="another seed gives other scenes")
    option("--workers", type=int, default=1, metavar="N", help="processes that draw the scenes")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> None:
    """Builds the folder and prints what is in it."""
    from bit_backbone.datasets.digits.build import build_scenes

    scenes = DigitScenes(
        split=args.split,
        num_images=args.images,
        image_size=args.image_size,
        num_objects=tuple(args.objects),
        digit_height=tuple(args.digit_height),
        seed=args.seed,
    )
    manifest = build_scenes(scenes, args.output, workers=args.workers, quiet=False)
    print(f"{args.output}: {manifest['images']} images, {manifest['objects']} objects")
