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

from bit_backbone.cli import model_choice
from bit_backbone.cli.data_options import (
    DATA,
    add_digit_options,
    add_exif_option,
    add_format_options,
    add_invalid_option,
    add_split_options,
    augmentations,
)
from bit_backbone.cli.image_options import add_bit_depth_option, add_unreadable_options
from bit_backbone.cli.model_choice import model_of
from bit_backbone.cli.networks import (
    add_part_option,
    check_part,
    checkpoint_config,
)
from bit_backbone.cli.options import (
    add_device_option,
    add_precision_option,
    add_renamed,
    add_training_options,
    positive,
)
from bit_backbone.detection.settings import OPTIMIZERS, TINY_TRAINING, DetectionSettings
from bit_backbone.detection.trained import weights_of

if TYPE_CHECKING:
    from bit_backbone.detection.models import DetectorSpec
    from bit_backbone.detection.tasks import TrainingSet


MEANINGS = {
    "batch_size": "images per step, of all processes together; ",
    "base_lr": "learning rate; ",
    "clip_norm": "largest norm of the gradients; ",
    "workers": "processes that load images; ",
    "save_every": "save after every so many steps; ",
}


def add_train_options(parser: Any) -> None:
    """Adds the options of ``bit-backbone train``."""
    option = parser.add_argument
    option("--output", type=Path, required=True, metavar="RUN", help="folder of the run")
    option("--test-only", action="store_true", help=argparse.SUPPRESS)  # now evaluate
    add_picture_option(parser)
    add_device_option(parser)
    _add_model_options(parser.add_argument_group("model"))
    data = parser.add_argument_group(DATA)
    defaults = {"train": "DigitScenes", "test": "the test part of --train"}
    for split, default in defaults.items():
        add_split_options(data, split, default)
    add_format_options(data)
    add_digit_options(data)
    add_invalid_option(data)
    add_exif_option(data)
    add_unreadable_options(data)
    add_bit_depth_option(data)
    _add_settings_options(parser.add_argument_group("settings"))


def add_evaluate_options(parser: Any) -> None:
    """Adds the options of ``bit-backbone evaluate``."""
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of the run")
    data = parser.add_argument_group(DATA)
    add_split_options(data, "test", None)
    add_format_options(data)
    data.add_argument("--seed", type=int, default=0, metavar="N", help="the run's, for --split")
    add_invalid_option(data)
    add_exif_option(data, default=None)
    add_unreadable_options(data, checks=False)
    add_bit_depth_option(data, default=None)
    add_picture_option(parser)
    option = parser.add_argument
    option("--report", action="store_true", help="write RUN/report.html for this evaluation")
    option(
        "--workers", type=int, default=0, metavar="N", help="processes that load images (default 0)"
    )
    add_precision_option(parser)
    add_device_option(parser)


def add_picture_option(parser: Any) -> None:
    """Adds ``--pictures``."""
    text = "number of test images to draw (default %(default)s)"
    parser.add_argument("--pictures", type=int, default=6, metavar="N", help=text)


def _add_model_options(group: Any) -> None:
    option = group.add_argument
    option("--model", metavar="NAME", help=f"model to train; default: {model_choice.DEFAULT}")
    option(
        "--variant", metavar="NAME", help="BiT network, or JSON file of a BitConfig (default R50x1)"
    )
    option(
        "--weights",
        dest="weights_backbone",
        metavar="NAME",
        help="pretrained BiT: a published name, a checkpoint file or folder, or the folder of a "
        "run; a config.json in the folder decides the variant",
    )
    add_renamed(group, "--weights-backbone", "--weights", "weights_backbone")
    add_part_option(group)
    option(
        "--trainable-backbone-layers",
        type=int,
        metavar="0-5",
        help="how many of the stem and the stages train, the deepest first (default 3 if "
        "pretrained, else all)",
    )
    option(
        "--argument",
        action="append",
        default=[],
        type=_argument,
        metavar="NAME=JSON",
        help="another argument of the model's builder, such as min_size=480; may be repeated",
    )


def _add_settings_options(group: Any) -> None:
    defaults = {field.name: field.default for field in dataclasses.fields(DetectionSettings)}
    length = group.add_mutually_exclusive_group()
    length.add_argument("--epochs", type=_epochs, help=model_choice.LENGTH)
    length.add_argument("--steps", type=int, metavar="N", help="length in steps instead of epochs")
    option = group.add_argument
    optimizer = {"choices": OPTIMIZERS, "help": _default("optimizer", defaults)}
    option("--optimizer", **optimizer)
    add_training_options(group)
    option("--channels-last", action="store_true", help="use the channels-last memory format")
    option(
        "--augment",
        nargs="*",
        metavar="NAME",
        help="any of hflip, photometric, zoom-out, iou-crop (detectors) and scale-crop "
        "(segmenters); default: hflip, but none for DigitScenes",
    )
    option(
        "--warmup-steps",
        type=int,
        metavar="N",
        help="steps in which the rate rises; default: a tenth of all, at most 100",
    )
    option("--batch-size", type=positive, metavar="N", help=_default("batch_size", defaults))
    numbers = ("base_lr", "momentum", "weight_decay", "clip_norm")
    for name in (*numbers, "seed", "workers", "save_every"):
        flag, value = f"--{name.replace('_', '-')}", defaults[name]
        shown = None if name in TINY_TRAINING else value
        text = _default(name, defaults)
        option(flag, type=type(value), default=shown, metavar="N", help=text)
    option(
        "--eval-every",
        type=int,
        metavar="STEPS",
        help="evaluate after every so many steps; default: only at the end",
    )


def _default(name: str, defaults: dict[str, Any]) -> str:
    """Returns what the help says of an option's default."""
    text = f"{MEANINGS.get(name, '')}default {defaults[name]}"
    return f"{text}, for the tiny model {TINY_TRAINING[name]}" if name in TINY_TRAINING else text


def _epochs(text: str) -> float:
    try:
        epochs = float(text)
    except ValueError:
        epochs = math.nan
    if not 0 < epochs < math.inf:
        raise argparse.ArgumentTypeError(f"must be a finite number above 0, got {text!r}")
    return epochs


def _argument(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    try:
        return name, json.loads(value if equals else "")
    except ValueError:
        raise argparse.ArgumentTypeError(
            f'must be NAME=JSON, such as min_size=480 or feature_norm="preact", got {text!r}'
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
        if "variant" not in arguments and _takes_variant(model_of(args)):
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
    from bit_backbone.detection.runs import load_spec
    from bit_backbone.training.state import SPEC_NAME
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
    """Returns the settings for a training set of this size.

    Raises:
        ValueError: A value is out of its range.
    """
    usual = TINY_TRAINING if model_of(args) == model_choice.TINY else {}
    given: dict[str, Any] = {}
    for field in dataclasses.fields(DetectionSettings):
        value = getattr(args, field.name, None)
        given[field.name] = usual.get(field.name, field.default) if value is None else value
    given["steps"] = model_choice.steps_of(args, num_images, given["batch_size"])
    given["augment"] = tuple(augmentations(args))
    return DetectionSettings(**given)


def spec_of(args: argparse.Namespace, dataset: TrainingSet) -> DetectorSpec:
    """Returns the model asked for, with the classes of a data set."""
    from bit_backbone.detection.models import DetectorSpec

    arguments = model_choice.size_arguments(args, dataset) | detector_arguments(args)
    return DetectorSpec(model_of(args), dataset.categories, arguments, dataset.keypoint_names)
