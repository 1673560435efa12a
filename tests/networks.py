"""Small networks for the tests, and the settings that make a comparison sharp."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bit_backbone.backbone import BitBackbone
from bit_backbone.config import BitConfig

# The smallest network with every part of a real one: 0.2 million parameters.
TINY = {
    "embedding_size": 16,
    "hidden_sizes": (32, 64, 128, 256),
    "depths": (1, 1, 1, 1),
    "num_groups": 8,
}
ALL = (0, 1, 2, 3, 4)
PADDINGS = (None, "same", "valid")
# Every kind of network and output that a config can ask for.
KINDS = (
    ("preactivation", "none"),
    ("preactivation", "preact"),
    ("preactivation", "groupnorm"),
    ("bottleneck", "none"),
    ("bottleneck", "groupnorm"),
)


def tiny(**arguments: object) -> BitBackbone:
    """A tiny backbone whose norms are not at their initial 1 and 0, where mistakes would hide."""
    return randomise(BitBackbone(BitConfig(**(TINY | arguments))))


def randomise(network: nn.Module) -> nn.Module:
    """Gives every GroupNorm a random scale (of both signs) and shift."""
    for module in network.modules():
        if isinstance(module, nn.GroupNorm):
            nn.init.normal_(module.weight, mean=0.5)
            nn.init.normal_(module.bias)
    return network


def largest_difference(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """The largest difference of any output, relative to the largest value of that output."""
    assert list(ours) == list(theirs)
    return max(relative_difference(ours[name], theirs[name]) for name in ours)


def relative_difference(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference of two tensors, relative to the largest value."""
    assert ours.shape == theirs.shape
    scale = theirs.abs().max().clamp(min=torch.finfo(theirs.dtype).tiny)
    return ((ours - theirs).abs().max() / scale).item()


def saved_bytes(function: Callable[[], Any]) -> int:
    """Bytes that autograd keeps for backward, parameters left out."""
    sizes = {}

    def pack(tensor):
        if not isinstance(tensor, nn.Parameter):
            sizes[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        function()
    return sum(sizes.values())
