"""Folders of networks in 8 bits, as ``save_pretrained`` writes them."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import nn

from bit_backbone.checkpoints.sources import CONFIG_FILE
from bit_backbone.checkpoints.writing import write_safetensors, write_text, writing
from bit_backbone.config import BitConfig

WEIGHTS = "model.safetensors"
KEY = "quantization_config"  # as transformers calls it
METHOD = {"quant_method": "bit_backbone_int8"}


def is_quantized(model: nn.Module) -> bool:
    """Whether a model has 8-bit weights."""
    return any(tensor.dtype == torch.int8 for tensor in model.state_dict().values())


def write_quantized(model: nn.Module, config: BitConfig, folder: Path) -> set[str]:
    """Writes the configuration, the 8-bit filters and their scales; returns the files' names."""
    values = json.loads(config.to_text(type(model).__name__)) | {KEY: METHOD}
    tensors = {name: value.contiguous().cpu() for name, value in model.state_dict().items()}
    with writing(folder / CONFIG_FILE, folder / WEIGHTS, overwrite=True) as (settings, weights):
        write_safetensors(weights, tensors.items())
        write_text(settings, json.dumps(values, indent=2) + "\n")
    return {CONFIG_FILE, WEIGHTS}
