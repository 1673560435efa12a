"""The options about images that cannot be read, and what they mean."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bit_backbone.training.settings import MAX_UNREADABLE

AUTO, MOST_BITS = "auto", 32  # of --bit-depth, as bit_backbone.preprocessing.deep has them


def add_unreadable_options(group: Any, *, checks: bool = True) -> None:
    """Adds ``--max-unreadable``, and ``--check`` where there is training to come."""
    group.add_argument(
        "--max-unreadable",
        type=_share,
        default=MAX_UNREADABLE,
        metavar="0..1",
        help="largest share of unreadable images in a data set (default %(default)s); they are "
        "left out and listed, and the exit status is 3; one image is always allowed, unless this "
        "is 0",
    )
    if checks:
        group.add_argument(
            "--check", action="store_true", help="decode every image before training"
        )


def add_bit_depth_option(group: Any, default: str | None = AUTO) -> None:
    """Adds ``--bit-depth``; no default leaves it to the run or checkpoint."""
    shown = default if default is not None else "what the run or checkpoint was trained with"
    group.add_argument(
        "--bit-depth",
        type=_bit_depth,
        default=default,
        metavar="auto|N",
        help="bits in use, such as 12, in images with more than 8 bits per channel; auto: all bits "
        f"of their type; default: {shown}",
    )


def _bit_depth(text: str) -> int | str:
    if text == AUTO:
        return AUTO
    if not text.isdecimal() or not 1 <= int(text) <= MOST_BITS:
        raise argparse.ArgumentTypeError(f"must be auto or a number of bits up to 32, got {text!r}")
    return int(text)


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"must be a share from 0 to 1, such as 0.05, got {text!r}")
    return share


def check_images(args: argparse.Namespace, sets: Mapping[str, Sequence[Path]]) -> None:
    """Decodes every image of some sets where ``--check`` asks for it, and prints what it cannot.

    Raises:
        ValueError: More of a set's images cannot be read than may be.
    """
    from bit_backbone.training.checking import unreadable_images
    from bit_backbone.training.problems import check_share
    from bit_backbone.training.progress import Progress
    from bit_backbone.utils.processes import is_first_process

    if not args.check or not is_first_process():
        return
    for name, paths in sets.items():
        with Progress(enabled=True) as bars:
            found = unreadable_images(paths, bars, args.bit_depth)
        where = "; ".join(failure.reason for failure in found[:3])
        check_share(len(found), len(paths), args.max_unreadable, name, where)
        print(f"{name}: {len(paths) - len(found)} of {len(paths)} images can be read")
