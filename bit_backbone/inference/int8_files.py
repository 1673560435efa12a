"""Loads folders of networks in 8 bits, which ``save_pretrained`` writes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

import safetensors.torch
import torch

from bit_backbone.checkpoints import CheckpointError
from bit_backbone.checkpoints.mixin import PretrainedMixin
from bit_backbone.checkpoints.quantized import KEY, METHOD, WEIGHTS
from bit_backbone.checkpoints.sources import CONFIG_FILE
from bit_backbone.config import BitConfig
from bit_backbone.inference.optimize import optimize_in_place
from bit_backbone.inference.quantization import make_empty
from bit_backbone.utils.empty_weights import init_empty_weights
from bit_backbone.utils.files import read_json

_DAMAGES = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    RuntimeError,
    safetensors.SafetensorError,
)

Model = TypeVar("Model", bound=PretrainedMixin)


def load_int8(kind: type[Model], folder: str | os.PathLike[str]) -> Model:
    """Loads a network in 8 bits that ``save_pretrained`` wrote.

    Args:
        kind: The class of the saved model, such as BitBackbone.
        folder: The folder of the model.

    Returns:
        The model, optimized for inference on the CPU.

    Raises:
        CheckpointError: The model is missing, damaged, or not in 8 bits.
    """
    with torch.inference_mode(False):  # else new parameters would stay inference tensors
        return optimize_in_place(_read(kind, Path(folder)).eval(), dtype=torch.int8)


def _read(kind: type[Model], folder: Path) -> Model:
    try:
        values = read_json(folder / CONFIG_FILE)
        if values.get(KEY) != METHOD:
            raise CheckpointError(
                f"{folder} holds no network in 8 bits: load it with from_pretrained"
            )
        (name,) = values["architectures"]
        if name != kind.__name__:
            raise CheckpointError(
                f"{folder} holds a {name} and must be loaded as one; got the class {kind.__name__}"
            )
        with init_empty_weights():
            model = kind(BitConfig.from_dict(values))
        make_empty(model)
        model.load_state_dict(safetensors.torch.load_file(folder / WEIGHTS), assign=True)
        return model
    except CheckpointError:
        raise
    except _DAMAGES as error:
        raise CheckpointError(
            f"{folder} cannot be read as a network in 8 bits: {error}; write it again by "
            "save_pretrained"
        ) from error
