"""Options that several commands share."""

from __future__ import annotations

import argparse
from typing import Any

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


def add_device_option(group: Any) -> None:
    """Adds ``--device``, which ``device_of`` reads."""
    group.add_argument(
        "--device", type=_device, help="default: the GPU, or the CPU where there is none"
    )


def _device(text: str) -> str:
    import torch

    try:
        torch.empty(0, device=text)
    except (RuntimeError, AssertionError) as error:  # the latter of a torch without CUDA
        raise argparse.ArgumentTypeError(
            f"a device that torch finds here, such as cpu or cuda:0, got {text!r}: "
            f"{str(error).splitlines()[0]}"
        ) from None
    return text


def device_of(args: argparse.Namespace) -> str:
    """Returns the device asked for, or the GPU, or the CPU where there is none."""
    import torch

    return args.device or ("cuda" if torch.cuda.is_available() else "cpu")
