"""Which model ``bit-backbone train`` makes where no ``--model`` says so."""

from __future__ import annotations

import argparse

from bit_backbone.cli.options import device_of

LARGE, TINY = "fasterrcnn_bit_fpn", "fasterrcnn_bit_tiny_fpn"
DEFAULT = f"{LARGE}; on a CPU, without --variant and --weights, {TINY}"


def model_of(args: argparse.Namespace) -> str:
    """Returns the name of the model: a run that is resumed keeps its own, wherever it began."""
    from bit_backbone.detection.runs import SPEC_NAME, load_spec

    if args.model is not None:
        return str(args.model)
    if (args.output / SPEC_NAME).is_file():
        return load_spec(args.output).name
    is_named = args.variant is not None or args.weights_backbone is not None
    return LARGE if is_named or device_of(args) != "cpu" else TINY
