"""Folders of networks in 8 bits: config.json, and model.safetensors with levels and their steps."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TypeVar

import safetensors.torch
import torch
from torch import nn

from bit_backbone.checkpoints import CheckpointError
from bit_backbone.checkpoints.mixin import PretrainedMixin
from bit_backbone.checkpoints.pretrained import remove_older_weights
from bit_backbone.checkpoints.writing import write_safetensors, write_text, writing
from bit_backbone.config import BitConfig
from bit_backbone.inference.optimize import optimize_in_place
from bit_backbone.inference.quantization import is_int8, make_empty
from bit_backbone.utils.empty_weights import init_empty_weights
from bit_backbone.utils.files import read_json

CONFIG, WEIGHTS = "config.json", "model.safetensors"
KEY = "quantization_config"  # as transformers calls it
METHOD = {"quant_method": "bit_backbone_int8"}

_DAMAGES = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    RuntimeError,
    safetensors.SafetensorError,
)

Model = TypeVar("Model", bound=PretrainedMixin)


def save_int8(model: nn.Module, folder: str | os.PathLike[str]) -> None:
    """Writes a network that ``optimize_for_inference(dtype=torch.int8)`` made, a quarter as large.

    Args:
        model: A BitBackbone, BitModel or BitForImageClassification.
        folder: Made if it does not exist; a model in it is replaced.

    Raises:
        CheckpointError: The model is not in 8 bits or of another class, or cannot be written.
    """
    kind, config = type(model).__name__, getattr(model, "config", None)
    in_int8 = is_int8(model)
    if not isinstance(config, BitConfig) or not in_int8:
        raise CheckpointError(
            "save_int8 writes a model of this package that optimize_for_inference made with dtype "
            f"torch.int8, got a {kind}{'' if in_int8 else ' in floating point'}"
        )
    folder = Path(folder)
    values = json.loads(config.to_text(kind)) | {KEY: METHOD}
    tensors = {name: value.contiguous().cpu() for name, value in model.state_dict().items()}
    with writing(folder / CONFIG, folder / WEIGHTS, overwrite=True) as (settings, weights):
        write_safetensors(weights, tensors.items())
        write_text(settings, json.dumps(values, indent=2) + "\n")
    remove_older_weights(folder, keep={CONFIG, WEIGHTS})


def load_int8(kind: type[Model], folder: str | os.PathLike[str]) -> Model:
    """Reads what ``save_int8`` wrote.

    Args:
        kind: The class of the model that was saved, such as BitBackbone.
        folder: Where.

    Returns:
        The model, optimized for inference on the CPU.

    Raises:
        CheckpointError: It is missing or damaged, or something else.
    """
    with torch.inference_mode(False):  # parameters made within it would stay bound to it
        return optimize_in_place(_read(kind, Path(folder)).eval(), dtype=torch.int8)


def _read(kind: type[Model], folder: Path) -> Model:
    try:
        values = read_json(folder / CONFIG)
        if values.get(KEY) != METHOD:
            raise CheckpointError(
                f"{folder} holds no network in 8 bits: read it by from_pretrained"
            )
        (name,) = values["architectures"]
        if name != kind.__name__:
            raise CheckpointError(
                f"{folder} holds a {name}, and is read as one; got the class {kind.__name__}"
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
            f"{folder} cannot be read as a network in 8 bits: {error}; write it again by save_int8"
        ) from error
