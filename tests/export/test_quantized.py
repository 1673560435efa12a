"""8-bit graphs of models whose layers share something."""

import torch
from networks import tiny

from bit_backbone.export.layers import portable
from bit_backbone.export.quantized import QuantizedConv2d


def assert_close(model):
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        quantized = portable(model, torch.int8)
        found, expected = quantized(images)["stage4"], model(images)["stage4"]
    assert torch.cosine_similarity(found.flatten(), expected.flatten(), 0) > 0.998
    return sum(isinstance(module, QuantizedConv2d) for module in quantized.modules())


def test_norms_with_the_same_parameters():
    model = tiny(out_indices=(4,)).eval()
    first, second = model.stage2[0].norm2, model.stage2[0].norm3
    second.weight, second.bias = first.weight, first.bias
    assert assert_close(model) == 16


def test_layers_in_two_places_stay_in_floating_point():
    model = tiny(out_indices=(4,), depths=(1, 3, 1, 1)).eval()
    model.stage2[2].norm2 = model.stage2[1].norm2
    assert assert_close(model) == 16
