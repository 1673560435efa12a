"""The options of ``bit-backbone train`` and ``evaluate``, and what they mean."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bit_backbone.cli.networks import (
    add_part_option,
    check_part,
    checkpoint_config,
    weights_of,
)
from bit_backbone.cli.options import (
    add_device_option,
    add_precision_option,
    add_renamed,
    positive,
)
from bit_backbone.detection.settings import OPTIMIZERS, DetectionSettings

if TYPE_CHECKING:
    from bit_backbone.detection.models import DetectorSpec
    from bit_backbone.detection.tasks import TrainingSet

DEFAULT_MODEL = "fasterrcnn_bit_fpn"
DEFAULT_EPOCHS = 12  # the field's "1x" schedule on COCO


def add_train_options(parser: Any) -> None:
    """Adds the options of ``bit-backbone train``."""
    option = parser.add_argument
    option("--output", type=Path, required=True, metavar="RUN", help="folder of the run")
    option("--test-only", action="store_true", help=argparse.SUPPRESS)  # now evaluate
    add_picture_option(parser)
    add_device_option(parser)
    _add_model_options(parser.add_argument_group("model"))
    data = parser.add_argument_group("data, in COCO's format")
    for split in ("train", "test"):
        _add_split_options(data, split, "DigitScenes")
    _add_digit_options(data)
    add_invalid_option(data)
    _add_recipe_options(parser.add_argument_group("settings"))


def add_evaluate_options(parser: Any) -> None:
    """Adds the options of ``bit-backbone evaluate``."""
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of the run")
    data = parser.add_argument_group("data, in COCO's format")
    _add_split_options(data, "test", None)
    add_invalid_option(data)
    add_picture_option(parser)
    option = parser.add_argument
    option("--report", action="store_true", help="write RUN/report.html again, of this evaluation")
    option("--workers", type=int, default=0, metavar="N", help="loaders, default %(default)s")
    add_precision_option(parser)
    add_device_option(parser)


def add_picture_option(parser: Any) -> None:
    """Adds ``--pictures``."""
    text = "test images drawn (default %(default)s)"
    parser.add_argument("--pictures", type=int, default=6, metavar="N", help=text)


def _add_model_options(group: Any) -> None:
    option = group.add_argument
    option("--model", default=DEFAULT_MODEL, metavar="NAME", help="default %(default)s")
    option("--variant", metavar="NAME", help="of BiT, or a BitConfig's JSON file; default R50x1")
    option(
        "--weights",
        dest="weights_backbone",
        metavar="NAME",
        help="pretrained BiT: a published name, a file, a folder or a run's, whose config.json "
        "decides the variant",
    )
    add_renamed(group, "--weights-backbone", "--weights", "weights_backbone")
    add_part_option(group)
    option("--trainable-backbone-layers", type=int, metavar="0-5", help="default 3 if pretrained")
    option(
        "--argument",
        action="append",
        default=[],
        type=_argument,
        metavar="NAME=JSON",
        help="any other of the builder's arguments, such as min_size=480; may be repeated",
    )


def _add_split_options(group: Any, split: str, default: str | None) -> None:
    option = group.add_argument
    where = {"required": True} if default is None else {"help": f"default: {default}"}
    option(f"--{split}", type=Path, metavar="DIR", **where)
    option(
        f"--{split}-annotations",
        default="instances.json",
        metavar="FILE",
        help="below DIR, default %(default)s",
    )
    option(
        f"--{split}-images", default="images", metavar="DIR", help="below it, default %(default)s"
    )
    option(
        f"--{split}-maps",
        metavar="DIR",
        help="below it, PNG maps of category ids for a segmenter, as DigitScenes has; default: "
        "made from the instances' masks",
    )


def _add_digit_options(group: Any) -> None:
    option = group.add_argument
    option(
        "--scenes", type=Path, default=Path("digit_scenes"), metavar="DIR", help="of DigitScenes"
    )
    option("--scene-images", type=int, nargs=2, default=(500, 200), metavar=("TRAIN", "TEST"))


def add_invalid_option(group: Any) -> None:
    """Adds ``--on-invalid``."""
    group.add_argument(
        "--on-invalid",
        choices=("raise", "skip"),
        default="raise",
        help="what to do about annotations that are wrong: list them and stop, or leave them out",
    )


def _add_recipe_options(group: Any) -> None:
    defaults = {field.name: field.default for field in dataclasses.fields(DetectionSettings)}
    length = group.add_mutually_exclusive_group()
    length.add_argument("--epochs", type=_epochs, help=f"default {DEFAULT_EPOCHS}")
    length.add_argument("--steps", type=int, metavar="N")
    option = group.add_argument
    option("--optimizer", choices=OPTIMIZERS, default=defaults["optimizer"])
    add_precision_option(group)
    option("--channels-last", action="store_true", help="that memory format")
    option("--grad-checkpointing", action="store_true", help="trade time for memory")
    option("--activation-recompute", action="store_true", help="recompute norms only")
    option("--fsdp", action="store_true", help="shard weights and optimizer over the processes")
    option(
        "--augment",
        nargs="*",
        metavar="NAME",
        help="of hflip, photometric, zoom-out, iou-crop (detectors), scale-crop (segmenters); "
        "default hflip, for DigitScenes none",
    )
    option(
        "--warmup-steps",
        type=int,
        metavar="N",
        help="default: a tenth of the steps, at most 100",
    )
    images = defaults["batch_size"]
    option("--batch-size", type=positive, default=images, metavar="N", help=f"default {images}")
    numbers = ("base_lr", "momentum", "weight_decay", "clip_norm")
    for name in (*numbers, "seed", "workers", "save_every"):
        flag, value = f"--{name.replace('_', '-')}", defaults[name]
        option(flag, type=type(value), default=value, metavar="N", help=f"default {value}")
    option("--eval-every", type=int, metavar="STEPS", help="default: at the end only")


def _epochs(text: str) -> float:
    try:
        epochs = float(text)
    except ValueError:
        epochs = math.nan
    if not 0 < epochs < math.inf:
        raise argparse.ArgumentTypeError(f"a finite number above 0, got {text!r}")
    return epochs


def _argument(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    try:
        return name, json.loads(value if equals else "")
    except ValueError:
        raise argparse.ArgumentTypeError(
            f'NAME=JSON, such as min_size=480 or feature_norm="preact" in quotes; got {text!r}'
        ) from None


def detector_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the builder's arguments that were given, in JSON's terms."""
    arguments = dict(args.argument)
    if args.variant is not None:
        is_file = args.variant.endswith(".json")
        arguments["variant"] = (
            json.loads(Path(args.variant).read_text()) if is_file else args.variant
        )
    if args.trainable_backbone_layers is not None:
        arguments["trainable_backbone_layers"] = args.trainable_backbone_layers
    if args.weights_backbone is not None:
        # The run records it: in one form, and good in any folder. Other names are no files.
        weights = weights_of(args.weights_backbone)
        is_local = os.path.exists(weights)
        path = os.path.abspath(weights) if is_local else weights
        arguments["weights_backbone"] = (
            path if args.part is None else {"path": path, "part": args.part}
        )
        if "variant" not in arguments and _takes_variant(args.model):
            arguments |= _variant_of(Path(weights), args.output, args.part)
    check_part(args.part, args.weights_backbone, "--weights")
    return arguments


def _takes_variant(model: str) -> bool:
    from torchvision.models import get_model_builder

    import bit_backbone.torchvision  # noqa: F401 (registers the builders)

    return "variant" in inspect.signature(get_model_builder(model)).parameters


def _variant_of(weights: Path, run: Path, part: str | None) -> dict[str, Any]:
    """Returns the network that a folder of weights describes, with outputs as dense heads want."""
    from bit_backbone.backbone import BitBackbone
    from bit_backbone.checkpoints.sources import CONFIG_FILE
    from bit_backbone.config import DENSE_FEATURE_NORM
    from bit_backbone.detection.runs import SPEC_NAME, load_spec
    from bit_backbone.utils.files import read_json

    if (run / SPEC_NAME).is_file():  # those of earlier versions did not record it
        return {k: v for k, v in load_spec(run).arguments.items() if k == "variant"}
    if not (weights / CONFIG_FILE).is_file():
        return {}
    config = checkpoint_config(str(weights), part)
    shape = config.replace(out_features=None, out_indices=None, id2label=None, label2id=None)
    made_for = read_json(weights / CONFIG_FILE).get("architectures") or ()
    if BitBackbone.__name__ not in made_for:  # a backbone may lack the norms that others have
        shape = shape.replace(feature_norm=DENSE_FEATURE_NORM)
    return {"variant": shape.to_dict()}


def settings_of(args: argparse.Namespace, num_images: int) -> DetectionSettings:
    """Returns the recipe for a training set of this size.

    Raises:
        ValueError: A value is out of its range.
    """
    given: dict[str, Any] = {
        f.name: getattr(args, f.name, None) for f in dataclasses.fields(DetectionSettings)
    }
    if args.steps is None:
        epochs = DEFAULT_EPOCHS if args.epochs is None else args.epochs
        given["steps"] = round(epochs * num_images / args.batch_size)
    given["augment"] = tuple(augmentations(args))
    return DetectionSettings(**given)


def augmentations(args: argparse.Namespace) -> list[str]:
    """Returns the augmentations asked for, or the default of the data."""
    if args.augment is not None:
        return list(args.augment)
    from bit_backbone.datasets.digits.build import holds_scenes

    digits = args.train is None or holds_scenes(args.train)  # mirrored, they are others or none
    return [] if digits or args.model.startswith("keypoint") else ["hflip"]


def open_set(args: argparse.Namespace, split: str, spec_name: str) -> TrainingSet:
    """Opens the training or the test set, and makes DigitScenes where that is it.

    Args:
        args: The options.
        split: "train" or "test".
        spec_name: The model, which decides about masks, keypoints and label maps.

    Raises:
        AnnotationError: The annotations are wrong, and ``--on-invalid`` is "raise".
        ValueError: There is no image, or only one of the two sets was given.
    """
    other = "train" if split == "test" else "test"
    is_alone = getattr(args, split) is None and getattr(args, other, None) is not None
    if is_alone and not getattr(args, "test_only", False):
        raise ValueError(
            f"a run on a data set of one's own trains on --train and is evaluated on --test; got "
            f"--{other} {getattr(args, other)} without --{split}"
        )
    dataset = _open(args, split, spec_name)
    if not len(dataset):
        raise ValueError(
            f"a {split} set has at least one image: {dataset.file} lists none that can be used; "
            f"give another --{split} or --{split}-annotations"
        )
    return dataset


def _open(args: argparse.Namespace, split: str, spec_name: str) -> TrainingSet:
    from bit_backbone.datasets.coco import CocoFolder
    from bit_backbone.datasets.semantic import SemanticFolder
    from bit_backbone.detection.models import is_segmenter, needs_keypoints, needs_masks
    from bit_backbone.detection.transforms import semantic_transforms, train_transforms

    names = augmentations(args) if split == "train" else []
    if is_segmenter(spec_name):
        maps = getattr(args, f"{split}_maps")
        if getattr(args, split) is None:
            maps = maps or "semantic"  # what DigitScenes writes
        transforms = semantic_transforms(names)
        return SemanticFolder(**_source(args, split), maps=maps, transforms=transforms)
    keypoints = needs_keypoints(spec_name)
    return CocoFolder(
        **_source(args, split),
        masks=needs_masks(spec_name),
        keypoints=keypoints,
        transforms=train_transforms(names, keypoints=keypoints),
    )


def _source(args: argparse.Namespace, split: str) -> dict[str, Any]:
    folder = getattr(args, split)
    return {
        "root": _digit_scenes(args, split) if folder is None else folder,
        "annotations": getattr(args, f"{split}_annotations"),
        "images": getattr(args, f"{split}_images"),
        "on_invalid": args.on_invalid,
    }


def _digit_scenes(args: argparse.Namespace, split: str) -> Path:
    from bit_backbone.datasets.digits.build import build_scenes
    from bit_backbone.datasets.digits.scenes import DigitScenes

    count = args.scene_images[split == "test"]
    folder: Path = args.scenes / f"{split}{count}"
    build_scenes(DigitScenes(split, count), folder, quiet=False)
    return folder


def spec_of(args: argparse.Namespace, dataset: TrainingSet) -> DetectorSpec:
    """Returns the model asked for, with the classes of a data set."""
    from bit_backbone.detection.models import DetectorSpec

    arguments = detector_arguments(args)
    return DetectorSpec(args.model, dataset.categories, arguments, dataset.keypoint_names)
