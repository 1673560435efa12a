"""What a user names to export: a run, a classifier, a checkpoint, or a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from bit_backbone.detection.runs import SPEC_NAME, bit_depth_of, load_detector, run_folder
from bit_backbone.export.detectron2_model import load_from_config
from bit_backbone.heads import BitForImageClassification
from bit_backbone.preprocessing import BitImageProcessor


@dataclass(frozen=True)
class Exportable:
    """A model, and what its file says of it.

    Attributes:
        model: In eval mode.
        details: Arguments of ``export``: "name", "categories", "keypoint_names", "processor" and
            "bit_depth", as far as they are known.
    """

    model: nn.Module
    details: Mapping[str, Any] = field(default_factory=dict)


def is_run(path: Path) -> bool:
    """Whether a path is the folder, or the state, of a run of ``bit-backbone train``."""
    return (run_folder(path) / SPEC_NAME).is_file()


def open_run(path: Path) -> Exportable:
    """Opens a detector or segmenter that ``bit-backbone train`` has trained.

    Raises:
        ValueError: The run has saved no weights.
    """
    model, spec = load_detector(path)
    details = {
        "name": spec.name,
        "categories": spec.categories,
        "keypoint_names": spec.keypoint_names,
        "bit_depth": bit_depth_of(path),
    }
    return Exportable(model, details)


def is_config(path: Path) -> bool:
    """Whether a path is that of a detectron2 configuration."""
    return path.suffix in (".yaml", ".yml")


def open_config(path: Path, weights: str | None) -> Exportable:
    """Opens a detector that detectron2 has trained.

    Args:
        path: Its configuration.
        weights: Instead of the MODEL.WEIGHTS in there.

    Raises:
        ValueError: It has no weights, or the model cannot be exported.
    """
    if not path.is_file():
        raise ValueError(f"there is no configuration {path}")
    detector, names = load_from_config(path, weights)
    return Exportable(detector, {"name": path.stem, "categories": names})


def of_classifier(
    model: BitForImageClassification, processor: BitImageProcessor, names: tuple[str, ...]
) -> Exportable:
    """Returns a classifier with its preprocessing and the names of its classes."""
    details = {
        "categories": names,
        "processor": processor,
        "bit_depth": processor.bit_depth,
    }
    return Exportable(model, details)
