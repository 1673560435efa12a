"""Our models of the tiny network in ``official``, and comparing their tensors."""

import torch
from official import TINY_CONFIG, official_arrays, write_official

from bit_backbone import BitBackbone, BitConfig, BitForImageClassification

LABELS = 10


def backbone(**settings):
    return BitBackbone(BitConfig(**{**TINY_CONFIG, **settings}))


def classifier(**settings):
    return BitForImageClassification(BitConfig(**{**TINY_CONFIG, "num_labels": LABELS, **settings}))


def snapshot(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_unchanged(model, before):
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def assert_equal_state(model, other):
    """The same names and, to the bit, the same values."""
    state, expected = model.state_dict(), other.state_dict()
    assert list(state) == list(expected)
    assert all(torch.equal(state[name], expected[name]) for name in state)


def tiny_official(folder):
    """The tiny network with a head, as an official file."""
    return write_official(folder / "tiny.npz", official_arrays(head=LABELS))


def kernel(array):
    """An official kernel in torch's layout."""
    return torch.from_numpy(array.transpose(3, 2, 0, 1))
