"""Which model ``bit-backbone train`` makes where no ``--model`` says so."""

from __future__ import annotations

import argparse
from typing import Any

from bit_backbone.cli.options import device_of

LARGE, TINY = "fasterrcnn_bit_fpn", "fasterrcnn_bit_tiny_fpn"
EPOCHS = 12  # the field's "1x" schedule on COCO
TINY_EPOCHS, TINY_STEPS = 6, 1000  # the longer of both
MOST_TINY_SIDE = 240  # as its anchors go to 128 pixels, and a step takes a quarter of a second
LENGTH = (
    f"length; default {EPOCHS}; for the tiny model {TINY_EPOCHS}, but at least {TINY_STEPS} steps"
)
DEFAULT = f"{LARGE}, or {TINY} on a CPU without --variant and --weights"


def model_of(args: argparse.Namespace) -> str:
    """Returns the name of the model: a run that is resumed keeps its own, wherever it began."""
    from bit_backbone.detection.runs import load_spec
    from bit_backbone.training.state import SPEC_NAME

    if args.model is not None:
        return str(args.model)
    if (args.output / SPEC_NAME).is_file():
        return load_spec(args.output).name
    is_named = args.variant is not None or args.weights_backbone is not None
    return LARGE if is_named or device_of(args) != "cpu" else TINY


def steps_of(args: argparse.Namespace, num_images: int, batch_size: int) -> int:
    """Returns how many steps are asked for, or the default for a training set of this size."""
    if args.steps is not None:
        return int(args.steps)
    is_tiny = model_of(args) == TINY
    epochs = args.epochs or (TINY_EPOCHS if is_tiny else EPOCHS)
    steps = round(epochs * num_images / batch_size)
    return max(steps, TINY_STEPS) if is_tiny and args.epochs is None else steps


def size_arguments(args: argparse.Namespace, train_set: Any) -> dict[str, Any]:
    """Returns the size that the tiny model makes of images larger than those it is for.

    A resumed run keeps its own.
    """
    from bit_backbone.detection.runs import load_spec
    from bit_backbone.torchvision.tiny import MIN_SIZE
    from bit_backbone.training.state import SPEC_NAME

    if model_of(args) != TINY:
        return {}
    if (args.output / SPEC_NAME).is_file():
        arguments = load_spec(args.output).arguments
        return {name: value for name, value in arguments.items() if name == "min_size"}
    sides = sorted(min(train_set.get_height_and_width(i)) for i in range(len(train_set)))
    side = min(sides[len(sides) // 2], MOST_TINY_SIDE)
    return {"min_size": side} if side > MIN_SIZE else {}
