"""Exported files where a command takes a model."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bit_backbone.training.settings import PRECISIONS

if TYPE_CHECKING:
    from bit_backbone.export import ExportedModel

_WITHOUT_CODE = ("onnx", "openvino")  # weights and operators; torch's have pickles or machine code


def exported_model(
    args: argparse.Namespace, tasks: str | Sequence[str], command: str
) -> ExportedModel | None:
    """Returns the exported file that ``--weights`` names, or None where it names something else.

    Raises:
        ValueError: The file is for another task, has another interface than the command needs, or
            is a program of torch, which can hold any code.
    """
    if not args.weights or not Path(args.weights).is_file():
        return None
    from bit_backbone.export.runtimes import format_of, is_exported

    if not is_exported(Path(args.weights)):
        return None
    if format_of(Path(args.weights)) not in _WITHOUT_CODE:
        raise ValueError(
            f"{args.weights} is a program of torch, which can run any code when it is loaded: "
            f"{command} takes exported files of format {' and '.join(_WITHOUT_CODE)}; in Python, "
            "bit_backbone.export.load opens files that you trust"
        )
    from bit_backbone.export import load

    if args.precision != PRECISIONS[0]:
        raise ValueError(
            f"an exported file has its precision already, and --precision {args.precision} cannot "
            f"change that of {args.weights}: leave it out, or export with that precision"
        )
    model = load(args.weights).require(tasks, command)
    if model.metadata.with_preprocessing or not model.metadata.with_nms:
        raise ValueError(
            f"{command} takes files without preprocessing and with suppression, and {args.weights} "
            "is not: export it without --with-preprocessing and --no-with-nms"
        )
    return model
