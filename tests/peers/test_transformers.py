"""Equal to transformers' BiT with the same weights, in float64, wherever transformers is right.

That is: the pre-activation network with BiT's fixed padding at output_stride 32, and the bottleneck
network of ViT hybrids (SAME padding, ReLU) at output_stride 32, 16 and 8. Its width_factor is
broken, so it gets the widened sizes instead.
"""

import pytest
import torch
from networks import TINY, largest_difference, randomise
from peers.names import give_weights, in_transformers

from bit_backbone.backbone import BitBackbone
from bit_backbone.config import TRANSFORMERS_EPS, BitConfig

transformers = pytest.importorskip("transformers")

TOLERANCE = 1e-10  # of a stage's largest value
SIZES = ((97, 65), (33, 47), (64, 64), (1, 1))
HYBRID = {
    "layer_type": "bottleneck",
    "global_padding": "same",
    "embedding_dynamic_padding": True,
}


def theirs_for(config: BitConfig) -> torch.nn.Module:
    values = config.to_dict() | {
        "width_factor": 1,
        "embedding_size": config.stem_channels,
        "hidden_sizes": [stage.channels for stage in config.stages],
    }
    known = transformers.BitConfig(**values)
    return transformers.BitModel(known).double().eval()


def pair(**arguments: object) -> tuple[BitBackbone, torch.nn.Module]:
    config = BitConfig(**arguments, weight_standardization_eps=TRANSFORMERS_EPS)
    every = tuple(range(len(config.depths) + 1))
    ours = randomise(BitBackbone(config, out_indices=every)).double().eval()
    theirs = theirs_for(config)
    give_weights(ours, theirs, in_transformers)
    return ours, theirs


@torch.no_grad()
def difference(ours: BitBackbone, theirs: torch.nn.Module, size: tuple[int, int]) -> float:
    # Two images: transformers rejects a single one where a group holds a single value.
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    hidden = theirs(x, output_hidden_states=True).hidden_states
    return largest_difference(ours(x), dict(zip(ours.out_features, hidden, strict=True)))


@pytest.mark.parametrize("width_factor", [1, 2, 3, 0.5])
@pytest.mark.parametrize("depths", [(1, 1, 1, 1), (3, 4, 6, 3)])
def test_every_stage_of_small_networks(depths, width_factor):
    ours, theirs = pair(**(TINY | {"depths": depths, "width_factor": width_factor}))
    for size in SIZES:
        assert difference(ours, theirs, size) < TOLERANCE


# Its documentation lists selu as well, which its table of activations does not have.
@pytest.mark.parametrize("hidden_act", ["gelu", "gelu_new"])
def test_activations(hidden_act):
    ours, theirs = pair(**TINY, hidden_act=hidden_act)
    assert difference(ours, theirs, (97, 65)) < TOLERANCE


@pytest.mark.parametrize("output_stride", [32, 16, 8])
@pytest.mark.parametrize("width_factor", [1, 2, 3, 0.5])
@pytest.mark.parametrize("depths", [(1, 1, 1, 1), (3, 4, 6, 3)])
def test_every_stage_of_small_hybrids(depths, width_factor, output_stride):
    arguments = {
        "depths": depths,
        "width_factor": width_factor,
        "output_stride": output_stride,
    }
    ours, theirs = pair(**(TINY | HYBRID | arguments))
    for size in SIZES:
        assert difference(ours, theirs, size) < TOLERANCE


@pytest.mark.parametrize("arguments", [{}, HYBRID], ids=["BiT", "hybrid"])
def test_every_stage_of_the_default_network(arguments):
    ours, theirs = pair(**arguments)
    for size in SIZES:
        assert difference(ours, theirs, size) < TOLERANCE


def test_preactivated_last_stage_is_the_last_hidden_state():
    ours, theirs = pair(**TINY)
    randomise(theirs)
    preact = BitBackbone(ours.config, feature_norm="preact", out_indices=[4]).double()
    weights = theirs.state_dict()
    preact.load_state_dict({name: weights[in_transformers(name)] for name in preact.state_dict()})
    x = torch.randn(2, 3, 65, 97, dtype=torch.float64)
    expected = {"stage4": theirs(x).last_hidden_state}
    assert largest_difference(preact(x), expected) < TOLERANCE
