"""``bit-backbone detect``: what a trained detector finds in any image."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bit_backbone.cli.exported import exported_model
from bit_backbone.cli.image_options import add_bit_depth_option
from bit_backbone.cli.options import (
    SOME_FAILED,
    add_device_option,
    add_inference_precision_option,
    add_weights_option,
    device_of,
    inference_dtype,
)

if TYPE_CHECKING:
    from torch import Tensor

    from bit_backbone.detection.models import DetectorSpec
    from bit_backbone.export.metadata import Metadata

MIN_SCORE = 0.5
DESCRIPTION = """
Prints the objects found in each image and draws them in NAME_detections.png. With --json or --coco,
pictures are drawn only if --output is given. An image that cannot be read, is too thin or too large
for the memory is reported and skipped; the exit status is then 3.
"""


def add_parser(subparsers: Any) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "detect",
        help="draw or list what a trained detector or segmenter finds in images",
        description=DESCRIPTION,
    )
    option = parser.add_argument
    option("images", nargs="+", type=Path, metavar="IMAGE")
    add_weights_option(
        parser, "RUN", "folder of a run of train, or an exported file", required=True
    )
    option(
        "--output",
        type=Path,
        metavar="DIR",
        help="folder of the pictures; default: that of the image",
    )
    option(
        "--json",
        action="store_true",
        help="print a JSON object per image; each of its objects has category, score, box (x, y, "
        "width, height in pixels of the upright image), and mask in COCO's run-length encoding",
    )
    option(
        "--coco",
        type=Path,
        metavar="FILE",
        help="write all objects to FILE in COCO's results format",
    )
    option(
        "--annotations",
        type=Path,
        metavar="FILE",
        help="COCO annotations with the ids of images and categories for --coco; default: the "
        "number in the name of each image, and 1, 2, ... in the order of the run",
    )
    text = f"leave out objects below this score (default {MIN_SCORE}, and 0 for --coco)"
    option("--min-score", type=_score, metavar="0..1", help=text)
    add_bit_depth_option(parser, default=None)
    add_inference_precision_option(parser, "type of BiT")
    add_device_option(parser)
    parser.set_defaults(func=run)


def _score(text: str) -> float:
    try:
        score = float(text)
    except ValueError:
        score = -1.0
    if not 0 <= score <= 1:
        raise argparse.ArgumentTypeError(f"must be a score between 0 and 1, got {text!r}")
    return score


def run(args: argparse.Namespace) -> int:
    """Detects in every image; returns the exit status."""
    from bit_backbone.detection.results import coco_records
    from bit_backbone.utils.files import atomic_path

    targets = _targets(args)
    device = device_of(args)
    model, spec, bit_depth = _open(args, device)
    args.bit_depth = args.bit_depth or bit_depth
    ids = _coco_ids(args, spec, list(targets))
    records, failed = [], 0
    for path, target in targets.items():
        try:
            found, picture = _detect(args, model, spec, path, target is not None)
        except (OSError, ValueError) as error:
            failed += 1
            _report_failure(args, path, error)
            continue
        if target is not None:
            with atomic_path(target) as temporary:
                picture.save(temporary, "PNG")
        if ids is not None:
            records += coco_records(found, ids.images[path], ids.categories, args.min_score or 0.0)
        _report(args, path, found, spec, target)
    if ids is not None:
        with atomic_path(args.coco) as temporary:
            temporary.write_text(json.dumps(records))
    done = f"{len(targets) - failed} of {len(targets)} images, {failed} failed"
    print(done, file=sys.stderr if args.json else sys.stdout)
    return SOME_FAILED if failed else 0


def _open(args: argparse.Namespace, device: str) -> tuple[Any, Any, int | str]:
    """Returns the detector or its exported file, what it finds, and the bits of deep images."""
    exported = exported_model(args, ("detection", "segmentation"), "detect")
    if exported is not None:
        return exported, exported.metadata, exported.metadata.bit_depth
    from bit_backbone.detection.runs import bit_depth_of, load_detector
    from bit_backbone.inference import optimize_in_place

    model, spec = load_detector(args.weights, device)
    fast = optimize_in_place(model, dtype=inference_dtype(args.precision))
    return fast, spec, bit_depth_of(args.weights)


def _targets(args: argparse.Namespace) -> dict[Path, Path | None]:
    """Returns where each picture goes, if anywhere; rejects two in one place."""
    draws = args.output is not None or not (args.json or args.coco)
    targets: dict[Path, Path | None] = {}
    for image in dict.fromkeys(args.images):
        target = (args.output or image.parent) / f"{image.stem}_detections.png"
        if draws and target in targets.values():
            raise ValueError(
                f"pictures are named after the image, and two would be {target}; rename one image "
                "or run twice with different --output"
            )
        targets[image] = target if draws else None
    return targets


@dataclass(frozen=True)
class _Ids:
    """What COCO's results format calls images and categories."""

    images: dict[Path, int]
    categories: list[int]


def _coco_ids(args: argparse.Namespace, spec: DetectorSpec, images: list[Path]) -> _Ids | None:
    from bit_backbone.utils.files import read_json

    if args.coco is None:
        if args.annotations is not None:
            raise ValueError("--annotations needs --coco, which is missing")
        return None
    if _finds_regions(spec):
        raise ValueError(
            f"COCO's results format is for objects, and {spec.name} is a segmenter; use --json"
        )
    if args.annotations is None:
        names = {image: image.stem for image in images}
        _require_all(images, {i for i in images if names[i].isdecimal()}, "is not a number")
        return _Ids({i: int(names[i]) for i in images}, list(range(1, len(spec.categories) + 1)))
    document = read_json(args.annotations)
    by_name = {Path(entry["file_name"]).name: entry["id"] for entry in document["images"]}
    where = f"is not in {args.annotations}"
    _require_all(images, {i for i in images if i.name in by_name}, where)
    categories = {entry["name"]: entry["id"] for entry in document["categories"]}
    _require_all(list(spec.categories), set(categories), where)
    return _Ids({i: by_name[i.name] for i in images}, [categories[n] for n in spec.categories])


def _finds_regions(spec: DetectorSpec | Metadata) -> bool:
    if hasattr(spec, "task"):  # of an exported file, for which torchvision's registry stays shut
        return spec.task == "segmentation"
    from bit_backbone.detection.models import is_segmenter

    return is_segmenter(spec.name)


def _require_all(wanted: list[Any], known: set[Any], otherwise: str) -> None:
    for item in wanted:
        if item not in known:
            raise ValueError(
                "--coco needs the id of every image and category: give --annotations FILE, or "
                f"images whose names are numbers; {item} {otherwise}"
            )


def _detect(
    args: argparse.Namespace, model: Any, spec: DetectorSpec, path: Path, draws: bool
) -> tuple[dict[str, Tensor], Any]:
    """Returns what is found in an image, and a picture of it if wanted."""
    from bit_backbone.detection.prediction import predict, read_image
    from bit_backbone.utils.out_of_memory import fitting
    from bit_backbone.visualization.objects import draw_result

    with fitting("the image"):
        image = read_image(path, args.bit_depth)
        found = predict(model, image, device_of(args))
        if not draws:
            return found, None
        return found, draw_result(image, found, spec.categories, min_score=_least(args))


def _least(args: argparse.Namespace) -> float:
    return MIN_SCORE if args.min_score is None else args.min_score


def _report_failure(args: argparse.Namespace, path: Path, error: Exception) -> None:
    print(f"bit-backbone: skipped {path}: {error}", file=sys.stderr)
    if args.json:
        print(json.dumps({"image": str(path), "error": str(error)}), flush=True)


def _report(
    args: argparse.Namespace,
    path: Path,
    found: dict[str, Tensor],
    spec: DetectorSpec,
    target: Path | None,
) -> None:
    from bit_backbone.detection.results import objects_of

    if args.json:
        objects = objects_of(found, spec.categories, _least(args))
        print(json.dumps({"image": str(path), "objects": objects}), flush=True)
        return
    written = "" if target is None else f" -> {target}"
    print(f"{path}: {_summary(found, spec.categories, _least(args))}{written}")


def _summary(found: dict[str, Tensor], names: tuple[str, ...], min_score: float) -> str:
    if "semantic" in found:
        present = [k for k in found["semantic"].unique().tolist() if k]
        return ", ".join(names[k - 1] for k in present) or "nothing"
    scored = zip(found["labels"].tolist(), found["scores"].tolist(), strict=True)
    listed = [f"{names[k - 1]} {score:.2f}" for k, score in scored if k and score >= min_score]
    return ", ".join(listed) or "nothing"
