"""Runs that an earlier version began, and what is known of their start."""

import pytest
import torch
from torch import nn

from bit_backbone.finetune.start import as_resumed
from bit_backbone.training.state import RunState

NOW = {"seed": 1, "network": {"depths": [1]}, "zero_head": False, "initial_weights": "f" * 64}


@pytest.mark.parametrize("hash_length", [16, 64])
def test_a_run_resumes_with_the_weights_that_it_has_trained(hash_length, tmp_path):
    model = nn.Linear(2, 2)
    start = {**NOW, "zero_head": True, "initial_weights": "a" * hash_length}
    saved = RunState(1, start, model={k: v.clone() for k, v in model.state_dict().items()})
    saved.check_settings(as_resumed(NOW, saved, model, tmp_path), tmp_path)
    with torch.no_grad():
        model.weight.add_(1)
    with pytest.raises(ValueError, match="zero_head True -> False"):
        saved.check_settings(as_resumed(NOW, saved, model, tmp_path), tmp_path)


@pytest.mark.parametrize("names", [(), ("network",), ("network", "zero_head", "initial_weights")])
def test_what_an_earlier_version_recorded_is_compared(names, tmp_path):
    start = {name: NOW[name] for name in ("seed", *names)}
    if "initial_weights" in names:
        start["initial_weights"] = "a" * 16
    saved = RunState(1, start)
    saved.check_settings(as_resumed(NOW, saved, nn.Linear(1, 1), tmp_path), tmp_path)
    if "network" in names:
        other = {**NOW, "network": {"depths": [2]}}
        with pytest.raises(ValueError, match=r"network\.depths"):
            saved.check_settings(as_resumed(other, saved, nn.Linear(1, 1), tmp_path), tmp_path)
