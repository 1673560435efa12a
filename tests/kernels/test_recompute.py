"""Recomputed norms: the same gradients to the last bit, from about half the memory."""

import collections

import pytest
import torch
from networks import ALL, KINDS, TINY, tiny
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from bit_backbone import BitConfig, BitForImageClassification
from bit_backbone.network import GroupNormAct, Unit
from bit_backbone.profiling.live_bytes import LiveBytes

X = torch.randn(2, 3, 49, 65, generator=torch.Generator().manual_seed(0))


def step(backbone, x=X, autocast=False):
    """Features and the gradient of every parameter that has one."""
    torch.manual_seed(0)
    backbone.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        features = backbone(x)
    loss = sum(
        (f.float() * torch.linspace(-1, 1, f.numel()).view_as(f)).sum() for f in features.values()
    )
    loss.backward()
    gradients = {n: p.grad for n, p in backbone.named_parameters() if p.grad is not None}
    return {name: t.detach().clone() for name, t in (features | gradients).items()}


def assert_same_bits(found, expected):
    assert found.keys() == expected.keys()
    assert [name for name in found if not torch.equal(found[name], expected[name])] == []


def units(backbone):
    return [module for module in backbone.modules() if isinstance(module, Unit)]


def freeze_all(backbone, kind):
    for module in backbone.modules():
        if isinstance(module, kind):
            module.requires_grad_(False)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("layer_type", "feature_norm"), KINDS)
def test_gradients_are_bit_for_bit(layer_type, feature_norm, checkpointing):
    backbone = tiny(
        layer_type=layer_type,
        feature_norm=feature_norm,
        out_indices=(0, 2, 4),
        depths=(2, 1, 2, 1),
        drop_path_rate=0.3,
    ).train()
    expected = step(backbone)
    backbone.set_activation_recompute()
    backbone.set_grad_checkpointing(checkpointing)
    assert_same_bits(step(backbone), expected)
    backbone.set_activation_recompute(False)
    assert not any(m.activation_recompute for m in units(backbone))


@pytest.mark.parametrize(
    ("arguments", "change"),
    [
        ({"hidden_act": "gelu"}, lambda b: b.double()),
        ({"hidden_act": "gelu_new"}, lambda b: b.double()),
        ({"hidden_act": "selu"}, lambda b: b.double()),
        ({"global_padding": "same"}, None),
        ({"global_padding": "valid"}, None),
        ({"output_stride": 8}, None),
        ({}, lambda b: b.freeze(2)),
        ({}, lambda b: b.freeze(5)),
        (
            {},
            lambda b: [m.requires_grad_(False) for m in b.modules() if isinstance(m, nn.GroupNorm)],
        ),
        ({}, lambda b: [m.requires_grad_(False) for m in b.modules() if isinstance(m, nn.Conv2d)]),
        ({}, lambda b: b.double()),
        ({}, lambda b: b.to(memory_format=torch.channels_last)),
        ({}, lambda b: b.eval()),
        ({}, lambda b: setattr(b.stage2[0].norm2, "act", nn.LeakyReLU())),
    ],
)
def test_every_setting_keeps_its_gradients(arguments, change):
    backbone = tiny(out_indices=(1, 4), **arguments).train()
    if change is not None:
        change(backbone)
    x = torch.randn(2, 3, 113, 97).to(next(backbone.parameters()).dtype).requires_grad_()
    expected = step(backbone, x)
    backbone.set_activation_recompute()
    found = step(backbone, x)
    assert found.keys() == expected.keys()
    assert_same_bits(found, expected)


def test_autocast_keeps_its_gradients():
    backbone = tiny(out_indices=ALL).train()
    expected = step(backbone, autocast=True)
    backbone.set_activation_recompute()
    assert_same_bits(step(backbone, autocast=True), expected)


@pytest.mark.parametrize(
    ("dtype", "autocast", "act"),
    [
        (torch.float32, True, "relu"),
        (torch.float32, True, "gelu"),
        (torch.float32, True, "selu"),
        (torch.bfloat16, False, "relu"),
    ],
)
def test_frozen_convolutions_in_half_precision_keep_the_gradients_of_norms(dtype, autocast, act):
    backbone = tiny(out_indices=(1, 4), hidden_act=act).train().to(dtype)
    freeze_all(backbone, nn.Conv2d)
    expected = step(backbone, X.to(dtype), autocast)
    backbone.set_activation_recompute()
    found = step(backbone, X.to(dtype), autocast)
    assert_same_bits(found, expected)


def kept_bytes(backbone, x):
    """What a forward leaves for backward, outputs included."""
    with LiveBytes(x, *backbone.parameters()) as live:
        features = backbone(x)
        assert features
        return live.now


def test_half_of_the_activations_are_not_stored():
    backbone = tiny(depths=(3, 3, 3, 3), out_indices=ALL).train()
    x = torch.randn(2, 3, 256, 256)
    plain = kept_bytes(backbone, x)
    backbone.set_activation_recompute()
    recomputing = kept_bytes(backbone, x)
    assert recomputing < 0.65 * plain
    backbone.set_grad_checkpointing()
    assert kept_bytes(backbone, x) < 0.75 * recomputing


class Counter(TorchDispatchMode):
    """Counts the calls of each operator."""

    def __init__(self):
        super().__init__()
        self.calls = collections.Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.calls[function] += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("layer_type", ["preactivation", "bottleneck"])
@pytest.mark.parametrize("channels_last", [False, True])  # products of matrices, convolutions
def test_convolutions_run_once_and_norms_twice(layer_type, channels_last):
    layout = torch.channels_last if channels_last else torch.contiguous_format
    backbone = tiny(layer_type=layer_type).train().to(memory_format=layout)
    backbone.set_activation_recompute()
    with Counter() as forward:
        loss = backbone(X.to(memory_format=layout))["stage4"].sum()
    with Counter() as backward:
        loss.backward()
    aten = torch.ops.aten
    assert backward.calls[aten.convolution.default] == 0
    # bmm also makes gradients: two for each convolution that is a product
    assert backward.calls[aten.bmm.default] == 2 * forward.calls[aten.bmm.default]
    norms = sum(isinstance(m, GroupNormAct) for unit in units(backbone) for m in unit.modules())
    assert backward.calls[aten.native_group_norm.default] == norms


def test_a_second_backward_is_an_error_and_not_a_wrong_gradient():
    backbone = tiny(out_indices=(4,)).train()
    backbone.set_activation_recompute()
    loss = backbone(X)["stage4"].square().sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="only allowed to backward once"):
        loss.backward()


def test_a_map_that_a_hook_replaced_is_kept():
    backbone = tiny(out_indices=(4,)).train()
    backbone.stage1[0].norm2.register_forward_hook(lambda module, args, y: y * 2.0)
    expected = step(backbone)
    backbone.set_activation_recompute()
    found = step(backbone)
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-4)


def test_an_input_that_somebody_writes_into_later_is_an_error():
    backbone = tiny(out_indices=(0, 4)).train()
    backbone.set_activation_recompute()
    features = backbone(X)
    features["stem"].detach().mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        features["stage4"].sum().backward()


def test_nothing_is_recomputed_without_gradients():
    backbone = tiny().eval()
    with torch.no_grad():
        expected = backbone(X)["stage4"]
        backbone.set_activation_recompute()
        assert torch.equal(backbone(X)["stage4"], expected)


def test_compiling_and_tracing_continue_working():
    backbone = tiny(out_indices=(1, 4)).train()
    expected = step(backbone)
    backbone.set_activation_recompute()
    compiled = torch.compile(backbone, backend="aot_eager", fullgraph=True)
    features = compiled(X)
    for name, feature in features.items():
        torch.testing.assert_close(feature, expected[name], rtol=1e-4, atol=1e-4)
    sum(f.sum() for f in features.values()).backward()
    traced = torch.fx.symbolic_trace(backbone)
    torch.testing.assert_close(traced(X)["stage4"], features["stage4"], rtol=1e-4, atol=1e-4)
    torch.export.export(backbone.eval(), (X,))


def test_classifiers_have_it_too():
    model = BitForImageClassification(BitConfig(**TINY, num_labels=3)).train()
    gradients = []
    for enable in (False, True):
        model.set_activation_recompute(enable)
        model.zero_grad()
        model(X, labels=torch.tensor([0, 2])).loss.backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    assert all(map(torch.equal, *gradients))


@pytest.mark.parametrize("switch", ["set_activation_recompute", "set_grad_checkpointing"])
@pytest.mark.filterwarnings("ignore:.*torch.jit.trace:FutureWarning")
def test_transforms_and_tracers_see_the_plain_network(switch):
    backbone = tiny().eval()
    expected = torch.func.grad(lambda x: backbone(x)["stage4"].square().mean())(X)
    features = backbone(X)["stage4"]
    getattr(backbone, switch)()
    found = torch.func.grad(lambda x: backbone(x)["stage4"].square().mean())(X)
    assert torch.equal(found, expected)
    traced = torch.jit.trace(backbone, X, strict=False)
    torch.testing.assert_close(traced(X)["stage4"], features, rtol=1e-4, atol=1e-4)
