"""Options that several commands share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bit_backbone.training.settings import PRECISIONS

if TYPE_CHECKING:
    import torch

INFERENCE_PRECISIONS = (*PRECISIONS, "int8", "auto")
SOME_FAILED = 3  # exit status of a batch job that skipped something
SIGNALLED = 128  # and the signal's number: exit status of a run that saved before it ended
_SHORT = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def exit_status(result: Any) -> int:
    """Returns the exit status of a training run, given its ``TrainingResult``."""
    if result.signal:
        return SIGNALLED + int(result.signal)
    return SOME_FAILED if result.unreadable else 0


class _Renamed(argparse.Action):
    """The former name of an option: not in the help, and it warns."""

    def __init__(
        self, option_strings: Sequence[str], dest: str, new: str, value: Any = None, **options: Any
    ) -> None:
        options |= {"nargs": None if value is None else 0, "help": argparse.SUPPRESS}
        super().__init__(option_strings, dest, default=argparse.SUPPRESS, **options)
        self.new, self.value = new, value

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        warn_of_old(str(option_string), self.new)
        setattr(namespace, self.dest, values if self.value is None else self.value)


def add_renamed(group: Any, old: str, new: str, dest: str, **options: Any) -> None:
    """Keeps the name that an option had before.

    Args:
        group: A parser or group; a mutually exclusive one where the option is required.
        old: The name before.
        new: What to give instead, for the warning.
        dest: The attribute that both set.
        **options: ``value``: what the old name means, where it takes none; or arguments of
            ``add_argument``.
    """
    group.add_argument(old, dest=dest, action=_Renamed, new=new, **options)


def warn_of_old(old: str, new: str) -> None:
    """Says on stderr that an option has another name now."""
    print(
        f"bit-backbone: warning: {old} is now {new}; the old name will be removed", file=sys.stderr
    )


def add_weights_option(group: Any, metavar: str, text: str, *, required: bool) -> None:
    """Adds ``--weights``, and ``--checkpoint`` as it was before."""
    either = group.add_mutually_exclusive_group(required=required)
    either.add_argument("--weights", metavar=metavar, help=text)
    add_renamed(either, "--checkpoint", "--weights", "weights")


def add_precision_option(group: Any, text: str = "type of the forward passes") -> None:
    """Adds ``--precision``, and ``--amp`` as it was before."""
    group.add_argument(
        "--precision",
        type=_precision,
        choices=PRECISIONS,
        default=PRECISIONS[0],
        help=f"{text} (default %(default)s)",
    )
    add_renamed(group, "--amp", "--precision bfloat16", "precision", value="bfloat16")


def add_inference_precision_option(group: Any, text: str = "type of the network") -> None:
    """Adds ``--precision`` of a command that trains nothing."""
    group.add_argument(
        "--precision",
        type=_precision,
        choices=INFERENCE_PRECISIONS,
        default=PRECISIONS[0],
        help=f"{text} (default %(default)s); int8: 8-bit convolutions on a CPU; auto: bfloat16 "
        "where the hardware has it",
    )
    add_renamed(group, "--amp", "--precision bfloat16", "precision", value="bfloat16")


def inference_dtype(precision: str) -> torch.dtype | str | None:
    """Returns the ``dtype`` of ``optimize_for_inference`` for a ``--precision``."""
    import torch

    if precision in ("auto", PRECISIONS[0]):
        return None if precision == PRECISIONS[0] else precision
    dtype: torch.dtype = getattr(torch, precision)
    return dtype


def add_training_options(group: Any) -> None:
    """Adds what every kind of training can do: ``--precision``, less memory, a longer run."""
    add_precision_option(group)
    option = group.add_argument
    option(
        "--grad-checkpointing",
        action="store_true",
        help="compute units again in the backward pass: less memory, a third more time",
    )
    option(
        "--activation-recompute",
        action="store_true",
        help="compute norms and activations again in the backward pass: half the activations, "
        "a little more time",
    )
    option("--fsdp", action="store_true", help="divide weights and optimizer among the processes")
    option(
        "--extend",
        action="store_true",
        help="continue a finished run with a new number of steps or learning rate",
    )


def _precision(text: str) -> str:
    if text in _SHORT:
        warn_of_old(f"--precision {text}", _SHORT[text])
    return _SHORT.get(text, text)


def positive(text: str) -> int:
    """Parses a whole number of at least 1, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
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
        "--device", type=_device, help="such as cpu or cuda:0; default: the GPU if there is one"
    )


def _device(text: str) -> str:
    import torch

    try:
        torch.empty(0, device=text)
    except (RuntimeError, AssertionError) as error:  # the latter of a torch without CUDA
        raise argparse.ArgumentTypeError(
            f"must be a device that torch finds here, such as cpu or cuda:0, got {text!r}: "
            f"{str(error).splitlines()[0]}"
        ) from None
    return text


def device_of(args: argparse.Namespace) -> str:
    """Returns the device asked for, or the GPU, or the CPU where there is none."""
    import torch

    return args.device or ("cuda" if torch.cuda.is_available() else "cpu")
