"""What a run starts from: the network, its weights and its head, so that it resumes as itself."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from bit_backbone.heads import BitForImageClassification
from bit_backbone.training.state import RunState
from bit_backbone.utils.processes import ProcessGroup
from bit_backbone.utils.weights_hash import weights_hash

# What training does not depend on: names, and what a forward pass returns beside the logits.
_NAMES = ("num_labels", "id2label", "label2id", "problem_type")
_START = ("network", "zero_head", "initial_weights")
_OUTPUTS = ("output_hidden_states", "return_dict", "out_features", "out_indices")

_LOGGER = logging.getLogger(__name__)
_trained_in: WeakKeyDictionary[nn.Module, Path] = WeakKeyDictionary()


def start_of_run(model: BitForImageClassification, group: ProcessGroup) -> dict[str, Any]:
    """Returns what identifies a model before training; the first process's weights count."""
    config = dataclasses.asdict(model.config)
    network = {name: v for name, v in config.items() if name not in (*_NAMES, *_OUTPUTS)}
    weights = None
    if group.is_first:
        weights = {"zero_head": _is_zero(model.classifier), "initial_weights": weights_hash(model)}
    return {"network": json.loads(json.dumps(network)), **group.gather(weights)[0]}


def _is_zero(head: nn.Module) -> bool:
    return not any(parameter.any() for parameter in head.parameters())


def note_training(model: nn.Module, folder: Path) -> None:
    """Remembers that this process trains a model in a folder, after which its weights differ."""
    _trained_in[model] = Path(os.path.realpath(folder))


def as_resumed(
    settings: Mapping[str, Any], saved: RunState, model: nn.Module, folder: Path
) -> dict[str, Any]:
    """Returns settings with the start that its run has recorded, as far as it cannot be compared.

    Weights that the run itself has trained say nothing about those that it started from.

    Args:
        settings: Of the resumed run.
        saved: The run that it resumes.
        model: As it was given.
        folder: Of the run.
    """
    recorded = saved.settings.get("initial_weights", "")
    is_of_run = _trained_in.get(model) == Path(os.path.realpath(folder))
    if recorded != settings["initial_weights"]:
        is_of_run |= saved.model is not None and _same_weights(model, saved.model)
    if recorded and is_of_run:
        kept = ("zero_head", "initial_weights")
        return {**settings, **{name: saved.settings[name] for name in kept}}
    if len(recorded) == len(settings["initial_weights"]):
        return dict(settings)
    _LOGGER.warning(
        "the run in %s is of an earlier version, which did not record the weights that it "
        "started from in the same way: they are not compared with those given now",
        folder,
    )
    known = {n: v for n, v in settings.items() if n in saved.settings or n not in _START}
    return {**known, "initial_weights": recorded} if recorded else known


def _same_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> bool:
    own = model.state_dict()
    return own.keys() == weights.keys() and all(
        own[name].dtype == value.dtype and torch.equal(own[name].cpu(), value)
        for name, value in weights.items()
    )
