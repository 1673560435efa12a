"""What a run has trained, as weights for another job."""

from __future__ import annotations

from pathlib import Path


def weights_of(name: str) -> str:
    """Returns what to read weights from: in the folder of a run, what it has trained.

    That is the classifier of a fine-tuning, and the backbone of a detector or segmenter.

    Raises:
        ValueError: It is the folder of a run that has not been finished.
    """
    from bit_backbone.checkpoints.sources import CONFIG_FILE
    from bit_backbone.training.state import BACKBONE_FOLDER, MODEL_FOLDER, SPEC_NAME, STATE_NAME

    folder = Path(name)
    if (folder / CONFIG_FILE).exists():
        return name
    for trained in (MODEL_FOLDER, BACKBONE_FOLDER):
        if (folder / trained / CONFIG_FILE).is_file():
            return str(folder / trained)
    if (folder / SPEC_NAME).is_file():
        from bit_backbone.detection.runs import save_backbone  # which imports torchvision: seconds

        return str(save_backbone(folder))
    if (folder / STATE_NAME).is_file():
        raise ValueError(
            f"weights are a file or a folder with a {CONFIG_FILE}, and {name} is the folder of a "
            f"fine-tuning that has not been finished: its classifier will be "
            f"{folder / MODEL_FOLDER}"
        )
    return name
