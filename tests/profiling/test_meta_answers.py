"""The profile's own answers on the meta device, beside torch's."""

import pytest
import torch
from torch.utils._pytree import tree_leaves

from bit_backbone import BitBackbone, BitConfig
from bit_backbone.profiling.meta_answers import MetaAnswers
from bit_backbone.utils.empty_weights import init_empty_weights

SMALL = {
    "embedding_size": 16,
    "hidden_sizes": (32, 64, 128, 256),
    "depths": (1, 2, 1, 1),
    "num_groups": 8,
}
ATEN = torch.ops.aten
OWN = {
    ATEN.arange.default,
    ATEN.convolution.default,
    ATEN.eq.Scalar,
    ATEN.max_pool2d_with_indices.default,
    ATEN.maximum.default,
    ATEN.native_group_norm.default,
    ATEN.native_layer_norm.default,
    ATEN.relu_.default,
    ATEN.where.self,
}


def kind(answer):
    return [(tuple(leaf.shape), leaf.dtype) for leaf in tree_leaves(answer)]


class Compared(MetaAnswers):
    def __init__(self):
        super().__init__()
        self.operators = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        answer = super().__torch_dispatch__(func, types, args, kwargs)
        assert kind(answer) == kind(func(*args, **(kwargs or {}))), func
        self.operators.add(func)
        return answer


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"output_stride": 8, "feature_norm": "preact"},
        {"global_padding": "same", "feature_norm": "groupnorm"},
        {"layer_type": "bottleneck", "output_stride": 16},
    ],
    ids=str,
)
def test_the_answers_have_the_shapes_and_types_of_torchs(settings, dtype):
    with init_empty_weights():
        backbone = BitBackbone(BitConfig(**SMALL, **settings)).to(dtype)
        images = torch.empty(2, 3, 97, 66, dtype=dtype)
    with Compared() as compared:
        with torch.no_grad():
            backbone(images)
        backbone.train()(images)
    assert settings.get("global_padding") or compared.operators >= OWN
    assert ATEN.convolution.default in compared.operators
