"""What tests of inference share."""

import pytest
import torch

from bit_backbone.inference import quantization


@pytest.fixture
def fast_int8(monkeypatch):
    """As on a processor that has it: what is computed is the same on all."""
    monkeypatch.setattr(quantization, "has_int8", lambda: True)
    monkeypatch.setattr(quantization, "fast_dtype", lambda _: torch.float32)
    monkeypatch.setattr("bit_backbone.inference.optimize.fast_dtype", lambda _: torch.float32)
