"""Options that several commands share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from bit_backbone import _config_checks as checks

NETWORK_OPTIONS = ("out_indices", "out_features", "output_stride", "global_padding", "feature_norm")

SOME_FAILED = 3  # exit status of a batch job that skipped something


def positive(text: str) -> int:
    """Parses a whole number of at least 1, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number of at least 1, got {text!r}")
    return int(text)


def image_size(text: str) -> tuple[int, int]:
    """Parses "800x1333" or "800" as (height, width), for argparse."""
    height, _, width = text.partition("x")
    try:
        size = int(height), int(width or height)
    except ValueError:
        size = (0, 0)
    if min(size) < 1:
        raise argparse.ArgumentTypeError(
            f"an image size is HEIGHTxWIDTH in pixels (800x1333), or one number; got {text!r}"
        )
    return size


def add_network_options(parser: argparse.ArgumentParser) -> None:
    """Adds what selects outputs and shapes the network."""
    outputs = parser.add_mutually_exclusive_group()
    outputs.add_argument(
        "--out-indices",
        type=int,
        nargs="+",
        metavar="I",
        help="outputs: 0 stem, 1 .. 4 stages; default: every stage",
    )
    outputs.add_argument("--out-features", nargs="+", metavar="NAME", help="outputs by name")
    for name in ("output_stride", "global_padding", "feature_norm"):
        choices = [choice for choice in checks.CHOICES[name] if choice is not None]
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, type=type(choices[0]), choices=choices, help=f"BitConfig.{name}")


def network_overrides(args: argparse.Namespace, num_stages: int = 4) -> dict[str, Any]:
    """Returns the BitConfig arguments that were given; every stage when no output was named."""
    given = {name: getattr(args, name) for name in NETWORK_OPTIONS}
    given = {name: value for name, value in given.items() if value is not None}
    if not {"out_indices", "out_features"} & set(given):
        given["out_indices"] = list(range(1, num_stages + 1))
    return given


def device_of(args: argparse.Namespace) -> str:
    """Returns the device asked for, or the GPU, or the CPU where there is none."""
    import torch

    return args.device or ("cuda" if torch.cuda.is_available() else "cpu")


def refuse_run(name: str) -> None:
    """Refuses the folder of a training run where weights are wanted.

    Raises:
        ValueError: It is one; the message says what reads it.
    """
    from bit_backbone.checkpoints.sources import CONFIG_FILE
    from bit_backbone.finetune.command import MODEL_FOLDER
    from bit_backbone.training.state import STATE_NAME

    folder = Path(name)
    if (folder / CONFIG_FILE).exists():
        return
    if (folder / MODEL_FOLDER / CONFIG_FILE).is_file():
        raise ValueError(
            f"weights are a file or a folder with a {CONFIG_FILE}, and {name} is the folder of a "
            f"fine-tuning: its classifier is {folder / MODEL_FOLDER}"
        )
    if (folder / STATE_NAME).is_file():
        raise ValueError(
            f"weights are a file or a folder with a {CONFIG_FILE}, and {name} is the folder of a "
            f"training run: `bit-backbone detect` takes a detector's, and a fine-tuning has its "
            f"classifier in {folder / MODEL_FOLDER} when it is finished"
        )
