"""Options that several commands share."""

from __future__ import annotations

import argparse

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


def device_of(args: argparse.Namespace) -> str:
    """Returns the device asked for, or the GPU, or the CPU where there is none.

    Raises:
        ValueError: torch finds no such device.
    """
    import torch

    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # the latter from builds without CUDA
        raise ValueError(
            f"--device names a device that torch finds here, such as cpu or cuda:0, got "
            f"{device!r}: {str(error).splitlines()[0]}"
        ) from error
    return str(device)
