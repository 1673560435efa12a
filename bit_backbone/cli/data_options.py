"""The options that name a detector's data, and the sets that they mean."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bit_backbone.cli.model_choice import model_of
from bit_backbone.datasets.coco.problems import ORIENTATIONS, POLICIES, UPRIGHT
from bit_backbone.datasets.formats.building import FORMATS

if TYPE_CHECKING:
    from bit_backbone.datasets import Document
    from bit_backbone.detection.models import DetectorSpec
    from bit_backbone.detection.tasks import TrainingSet

DATA = "data: COCO, Pascal VOC or YOLO, recognized by its files"
NAMED = {"train": "training", "test": "test"}


def add_split_options(group: Any, split: str, default: str | None) -> None:
    """Adds ``--train`` or ``--test``, and what goes with it."""
    option = group.add_argument
    where = (
        {"required": True, "help": "folder of the test set"}
        if default is None
        else {"help": f"folder of the {NAMED[split]} set; default: {default}"}
    )
    option(f"--{split}", type=Path, metavar="DIR", **where)
    option(
        f"--{split}-annotations",
        metavar="FILE",
        help="COCO annotations in DIR; default: instances.json, or the file found there",
    )
    option(
        f"--{split}-images",
        metavar="DIR",
        help="folder of COCO's images in DIR; default: images, or the folder found there",
    )
    option(
        f"--{split}-maps",
        metavar="DIR",
        help="for a segmenter, folder of PNG maps of category ids in DIR; default: maps made from "
        "the masks of the instances",
    )


def add_format_options(group: Any) -> None:
    """Adds ``--format`` and ``--split``."""
    option = group.add_argument
    option(
        "--format", choices=FORMATS, help="format of the data set; default: recognized by its files"
    )
    option(
        "--split",
        type=_share,
        metavar="0..1",
        help="draw this share of the images as the test set, by --seed",
    )


def add_exif_option(group: Any, default: str | None = UPRIGHT) -> None:
    """Adds ``--exif``; no default leaves it to the run."""
    group.add_argument(
        "--exif",
        choices=ORIENTATIONS,
        default=default,
        help="whether annotations refer to images turned by their EXIF orientation or to images as "
        f"stored; default: {default or 'the value of the run'}",
    )


def add_digit_options(group: Any) -> None:
    """Adds what DigitScenes are made by."""
    option = group.add_argument
    option(
        "--scenes",
        type=Path,
        default=Path("digit_scenes"),
        metavar="DIR",
        help="where DigitScenes is made",
    )
    option(
        "--scene-images",
        type=int,
        nargs=2,
        default=(500, 200),
        metavar=("TRAIN", "TEST"),
        help="numbers of images of DigitScenes (default 500 200)",
    )


def add_invalid_option(group: Any) -> None:
    """Adds ``--on-invalid``."""
    group.add_argument(
        "--on-invalid",
        choices=POLICIES,
        default=POLICIES[0],
        help="wrong annotations: repair those that can be repaired and stop at others (default), "
        "stop at any, or leave them out",
    )


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise argparse.ArgumentTypeError(
            f"must be a share between 0 and 1, such as 0.2, got {text!r}"
        )
    return share


def augmentations(args: argparse.Namespace) -> list[str]:
    """Returns the augmentations asked for, or the default of the data."""
    if args.augment is not None:
        return list(args.augment)
    from bit_backbone.datasets.digits.build import holds_scenes

    digits = args.train is None or holds_scenes(args.train)  # mirrored, they are others or none
    return [] if digits or model_of(args).startswith("keypoint") else ["hflip"]


def open_sets(args: argparse.Namespace) -> tuple[TrainingSet, TrainingSet]:
    """Opens the training and the test set of ``bit-backbone train``.

    Raises:
        AnnotationError: Annotations are wrong, by ``--on-invalid``.
        ValueError: There is no image, or no test set.
    """
    names = augmentations(args)
    train, test = _documents(args)
    train_set = _open(args, "train", model_of(args), train, names)
    return train_set, _open(args, "test", model_of(args), test, [], train_set.categories)


def open_test_set(args: argparse.Namespace, spec: DetectorSpec) -> TrainingSet:
    """Opens the test set of ``bit-backbone evaluate``, with the classes of a model.

    Raises:
        AnnotationError: Annotations are wrong, by ``--on-invalid``.
        ValueError: There is no image.
    """
    if args.test is None:
        document = _digit_scenes(args, "test")
    elif args.split is not None:
        document = _divided(args, args.test, "test")[1]
    else:
        document = _document(args, "test")
    return _open(args, "test", spec.name, document, [], spec.categories)


def _documents(args: argparse.Namespace) -> tuple[Document, Document]:
    """Returns the training and the test set, unchecked."""
    from bit_backbone.datasets.formats.opening import has_part

    if args.train is None:
        if args.test is not None:
            raise ValueError(f"--test needs a training set: got --test {args.test} without --train")
        return _digit_scenes(args, "train"), _digit_scenes(args, "test")
    if args.split is not None:
        if args.test is not None:
            raise ValueError("--split draws the test set from --train; leave --test or --split out")
        return _divided(args, args.train, "train")
    if args.test is None:
        if not has_part(args.train, "test", format=args.format):
            raise ValueError(
                f"a run needs test images, and {args.train} has no test part; "
                f"got --train {args.train} without --test or --split 0.2"
            )
        args = argparse.Namespace(**vars(args) | {"test": args.train})
    return _document(args, "train"), _document(args, "test")


def _document(args: argparse.Namespace, split: str) -> Document:
    from bit_backbone.datasets import open_document

    options = {name: getattr(args, f"{split}_{name}") for name in ("annotations", "images")}
    options |= {"format": args.format, "exif": args.exif}
    return open_document(getattr(args, split), split, **options)


def _divided(args: argparse.Namespace, path: Path, split: str) -> tuple[Document, Document]:
    """Returns both parts of what ``--split`` divides, all of a data set."""
    from bit_backbone.datasets import open_document, split_document

    options = {name: getattr(args, f"{split}_{name}") for name in ("annotations", "images")}
    document = open_document(path, format=args.format, exif=args.exif, **options)
    return split_document(document, args.split, args.seed)


def _digit_scenes(args: argparse.Namespace, split: str) -> Document:
    from bit_backbone.datasets import open_document
    from bit_backbone.datasets.digits.build import build_scenes
    from bit_backbone.datasets.digits.scenes import DigitScenes

    count = args.scene_images[split == "test"]
    folder: Path = args.scenes / f"{split}{count}"
    build_scenes(DigitScenes(split, count), folder, quiet=False)
    names = {name: getattr(args, f"{split}_{name}") for name in ("annotations", "images")}
    return open_document(folder, split, **names)


def _open(
    args: argparse.Namespace,
    split: str,
    spec_name: str,
    document: Document,
    names: list[str],
    categories: Sequence[str] | None = None,
) -> TrainingSet:
    """Checks a set for a model, and gives it its augmentation and the labels of categories."""
    options = {name: getattr(args, name) for name in ("on_invalid", "bit_depth", "exif")}
    make = _opener(args, split, spec_name, names)
    dataset: TrainingSet = make(document, categories=categories, **options)
    if not len(dataset):
        raise ValueError(
            f"a {split} set needs at least one image, and {dataset.file} lists none that can be "
            f"used; give another --{split} or --{split}-annotations"
        )
    return dataset


def _opener(args: argparse.Namespace, split: str, spec_name: str, names: list[str]) -> Any:
    from bit_backbone.datasets.coco import CocoFolder
    from bit_backbone.datasets.semantic import SemanticFolder
    from bit_backbone.detection.models import is_segmenter, needs_keypoints, needs_masks
    from bit_backbone.detection.transforms import semantic_transforms, train_transforms

    if is_segmenter(spec_name):
        root, maps = getattr(args, split), getattr(args, f"{split}_maps")
        root = getattr(args, "train", None) if root is None else root
        if root is None:
            maps = maps or "semantic"  # what DigitScenes writes
        elif maps is not None:
            maps = (root / maps).absolute()
        return partial(SemanticFolder, maps=maps, transforms=semantic_transforms(names))
    keypoints = needs_keypoints(spec_name)
    transforms = train_transforms(names, keypoints=keypoints)
    return partial(
        CocoFolder, masks=needs_masks(spec_name), keypoints=keypoints, transforms=transforms
    )
