"""The folder of a training run: the detector's description and its last saved state."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bit_backbone.backbone import BitBackbone
from bit_backbone.datasets.coco.problems import UPRIGHT
from bit_backbone.detection.models import DetectorSpec
from bit_backbone.training.saving import load_weights
from bit_backbone.training.state import BACKBONE_FOLDER, SPEC_NAME, STATE_NAME, RunState
from bit_backbone.utils.files import atomic_path

RESULTS_NAME = "detections.json"


def save_spec(folder: Path, spec: DetectorSpec) -> None:
    """Stores the description of the model, which reading its weights needs."""
    with atomic_path(folder / SPEC_NAME) as temporary:
        temporary.write_text(json.dumps(spec.to_dict(), indent=2) + "\n")


def save_results(folder: Path, records: list[dict[str, Any]]) -> None:
    """Stores the detections of the latest evaluation, in COCO's results format."""
    with atomic_path(folder / RESULTS_NAME) as temporary:
        temporary.write_text(json.dumps(records))


def load_results(folder: Path) -> list[dict[str, Any]]:
    """Reads what ``save_results`` wrote; returns an empty list if there is nothing."""
    path = folder / RESULTS_NAME
    return json.loads(path.read_text()) if path.exists() else []


def load_spec(folder: Path) -> DetectorSpec:
    """Reads the description of a run's model.

    Raises:
        ValueError: The folder is not that of a run, or its description is damaged.
    """
    path = folder / SPEC_NAME
    try:
        return DetectorSpec.from_dict(json.loads(path.read_text()))
    except OSError as error:
        raise ValueError(
            f"a run's folder holds {SPEC_NAME} and {STATE_NAME}, as `bit-backbone train` "
            f"writes them; {folder} does not ({error.strerror})"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error!r}); train again") from error


def load_detector(
    run: str | os.PathLike[str], device: torch.device | str = "cpu"
) -> tuple[nn.Module, DetectorSpec]:
    """Returns the detector of a run, in eval mode, and its description.

    Args:
        run: The folder of a run, or the ``last.pt`` in it.
        device: Where to put the detector.

    Raises:
        ValueError: The folder holds no run, no saved state, or a damaged one.
    """
    folder = run_folder(Path(run))
    spec = load_spec(folder)
    state = load_state(folder)
    model = spec.build(pretrained=False)
    load_weights(model, state.model)
    return model.to(device).eval(), spec


def bit_depth_of(run: str | os.PathLike[str]) -> int | str:
    """Returns the bits in use in a run's images of more than 8 bits per channel, or "auto"."""
    bit_depth: int | str = load_state(run_folder(Path(run))).settings.get("bit_depth", "auto")
    return bit_depth


def exif_of(run: str | os.PathLike[str]) -> str:
    """Returns the orientation of a run's images, "upright" or "stored", as in ``CocoFolder``."""
    return str(load_state(run_folder(Path(run))).settings.get("exif", UPRIGHT))


def save_backbone(run: Path, model: nn.Module | None = None) -> Path:
    """Writes the backbone of a run as a folder with a config.json, and returns the folder.

    Args:
        run: The folder of the run.
        model: The trained model; None reads it from the run.

    Raises:
        ValueError: The folder holds no run, no saved state, or a damaged one.
    """
    model = load_detector(run)[0] if model is None else model
    body = model.get_submodule("backbone.body")
    assert isinstance(body, BitBackbone)
    body.save_pretrained(run / BACKBONE_FOLDER)
    return run / BACKBONE_FOLDER


def run_folder(path: Path) -> Path:
    """Returns the folder of a run, given the folder or the state in it."""
    return path.parent if path.name == STATE_NAME else path


def load_state(folder: Path) -> RunState:
    """Reads the last saved state of a run.

    Raises:
        ValueError: There is none, or it is damaged.
    """
    state = RunState.load(folder)
    if state is None:
        raise ValueError(
            f"{folder} holds no {STATE_NAME}; train first, which saves it from time to time"
        )
    return state
