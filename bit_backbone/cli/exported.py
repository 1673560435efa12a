"""Exported files where a command takes a model."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bit_backbone.export import ExportedModel


def exported_model(
    args: argparse.Namespace, tasks: str | Sequence[str], command: str
) -> ExportedModel | None:
    """Returns the exported file that ``--weights`` names, or None where it names something else.

    Raises:
        ValueError: The file is for another task, or has another interface than the command needs.
    """
    if not args.weights or not Path(args.weights).is_file():
        return None
    from bit_backbone.export.runtimes import is_exported

    if not is_exported(Path(args.weights)):
        return None
    from bit_backbone.export import load

    model = load(args.weights).require(tasks, command)
    if model.metadata.with_preprocessing or not model.metadata.with_nms:
        raise ValueError(
            f"{command} prepares images itself, and {args.weights} was exported with "
            "preprocessing or without suppression: export it without these options"
        )
    return model
