"""``bit-backbone detect``: what a trained detector finds in any image."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bit_backbone.cli.options import SOME_FAILED, add_device_option, device_of

if TYPE_CHECKING:
    from torch import Tensor


def add_parser(subparsers: Any) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "detect",
        help="draw what a trained detector or segmenter finds in images",
        description="Prints the objects found in each image and writes NAME_detections.png. An "
        "image that cannot be read, is too thin or too large for the memory is reported and "
        "skipped; the exit status is then 3.",
    )
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        required=True,
        metavar="RUN",
        help="folder of a run of tools/train_torchvision.py",
    )
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="made if missing; default: beside the image"
    )
    parser.add_argument(
        "--min-score", type=_score, default=0.5, metavar="0..1", help="default %(default)s"
    )
    add_device_option(parser)
    parser.set_defaults(func=run)


def _score(text: str) -> float:
    try:
        score = float(text)
    except ValueError:
        score = -1.0
    if not 0 <= score <= 1:
        raise argparse.ArgumentTypeError(f"a score lies between 0 and 1, got {text!r}")
    return score


def run(args: argparse.Namespace) -> int:
    """Detects in every image; returns the exit status."""
    import torch

    from bit_backbone.detection.models import check_image
    from bit_backbone.detection.runs import load_detector
    from bit_backbone.utils.files import atomic_path
    from bit_backbone.utils.out_of_memory import fitting
    from bit_backbone.visualization.objects import draw_result

    targets = _targets(args.images, args.output)
    device = device_of(args)
    model, spec = load_detector(args.checkpoint, device)
    failed = 0
    for path, target in targets.items():
        try:
            with fitting("the image"), torch.inference_mode():
                image = _read(path)
                check_image(model, image)
                (found,) = model([image.to(device)])
                picture = draw_result(image, found, spec.categories, min_score=args.min_score)
        except (OSError, ValueError) as error:
            failed += 1
            print(f"bit-backbone: skipped {path}: {error}", file=sys.stderr)
            continue
        with atomic_path(target) as temporary:
            picture.save(temporary, "PNG")
        print(f"{path}: {_summary(found, spec.categories, args.min_score)} -> {target}")
    print(f"{len(targets) - failed} of {len(targets)} images, {failed} failed")
    return SOME_FAILED if failed else 0


def _targets(images: list[Path], output: Path | None) -> dict[Path, Path]:
    """Returns where each picture goes; refuses two in one place."""
    targets: dict[Path, Path] = {}
    for image in dict.fromkeys(images):
        target = (output or image.parent) / f"{image.stem}_detections.png"
        if target in targets.values():
            raise ValueError(
                f"pictures are named after the image, and two would be {target}; rename one image "
                "or run twice with different --output"
            )
        targets[image] = target
    return targets


def _read(path: Path) -> Tensor:
    """Returns an image upright as RGB, float32 [3, H, W] in 0..1."""
    import torch
    from torchvision.transforms.v2 import functional as F

    from bit_backbone.preprocessing.images import read

    image = read(path, convert_rgb=True, input_data_format=None, white=1.0)
    return F.to_dtype(F.to_image(image), torch.float32, scale=True).as_subclass(torch.Tensor)


def _summary(found: dict[str, Tensor], names: tuple[str, ...], min_score: float) -> str:
    if "semantic" in found:
        present = [k for k in found["semantic"].unique().tolist() if k]
        return ", ".join(names[k - 1] for k in present) or "nothing"
    scored = zip(found["labels"].tolist(), found["scores"].tolist(), strict=True)
    listed = [f"{names[k - 1]} {score:.2f}" for k, score in scored if k and score >= min_score]
    return ", ".join(listed) or "nothing"
