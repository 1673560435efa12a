"""A classifier and its preprocessing, opened by the name of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bit_backbone.checkpoints import LoadReport
    from bit_backbone.heads import BitForImageClassification
    from bit_backbone.preprocessing import BitImageProcessor

FALLBACK_PRESET = "official"


def classifier_of(name: str, part: str | None) -> BitForImageClassification:
    """Reads the classifier of a checkpoint.

    Raises:
        ValueError: It cannot be read, or has no head.
    """
    from bit_backbone.checkpoints import CheckpointError
    from bit_backbone.heads import BitForImageClassification

    try:
        model = BitForImageClassification.from_pretrained(name, part=part)
    except CheckpointError as error:
        if error.report is None or not _lacks_head_alone(error.report):
            raise
    else:
        if model.num_labels:
            return model
    raise ValueError(
        f"{name} has no classifier; classify takes weights with one, such as "
        "BiT-M-R50x1-ILSVRC2012 or the result of `bit-backbone finetune`"
    )


def _lacks_head_alone(report: LoadReport) -> bool:
    """Whether a file is short of what comes after the last stage, and of nothing else."""
    parts = {name.partition(".")[0] for name in report.missing}
    return bool(parts) and parts <= {"norm", "classifier"} and report.same_network


def processor_of(checkpoint: str, preset: str | None) -> BitImageProcessor:
    """Returns a preset, or the preprocessing that a checkpoint comes with."""
    from bit_backbone.preprocessing import BitImageProcessor
    from bit_backbone.preprocessing.saved import FILE_NAME, has_timm_settings

    if preset is not None:
        return BitImageProcessor.from_preset(preset)
    path = Path(checkpoint)
    has_none = path.is_dir() and not (path / FILE_NAME).exists() and not has_timm_settings(path)
    if path.is_file() or has_none:
        return BitImageProcessor.from_preset(FALLBACK_PRESET)
    return BitImageProcessor.from_pretrained(checkpoint)
