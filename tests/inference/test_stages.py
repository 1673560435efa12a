"""The chain of an optimized stage: the numbers of its units, and only where nobody looks inside."""

import copy
import gc
import pickle

import pytest
import torch
from networks import ALL, largest_difference, tiny
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bit_backbone import optimize_for_inference
from bit_backbone.inference import optimize_in_place, stages
from bit_backbone.inference.convolution import FoldedConv2d
from bit_backbone.kernels.norm_conv import can_multiply

pytestmark = pytest.mark.skipif(
    not can_multiply(torch.float32), reason="the kernels cannot run here"
)

TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 0.03, torch.int8: 0.12}


class ChainError(Exception):
    """Raised in the place of the chain's kernel."""


@pytest.fixture
def no_kernel(monkeypatch):
    def fail(*_):
        raise ChainError

    monkeypatch.setattr(stages, "norm_conv", fail)


def network(**options):
    return tiny(**{"out_indices": ALL, "depths": (1, 2, 2, 1)} | options).eval()


def optimized(model, **options):
    return optimize_for_inference(model, keep_pages=False, **options)


def layer_by_layer(fast):
    """A copy whose units run their layers one by one, because hooks see them."""
    seen = copy.deepcopy(fast)
    for stage in seen.modules():
        if isinstance(stage, stages.InferenceStage):
            for unit in stage:
                unit.register_forward_hook(lambda *_: None)
    return seen


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"output_stride": 8},
        {"global_padding": "same"},
        {"feature_norm": "preact"},
        {"hidden_sizes": (40, 72, 104, 136), "num_groups": 4},
    ],
)
def test_the_chain_computes_what_the_units_do(options, dtype):
    if not can_multiply(dtype):
        pytest.skip("not with this type on this processor")
    fast = optimized(network(**options), dtype=dtype)
    units = layer_by_layer(fast)
    for images in (torch.randn(1, 3, 97, 64), torch.randn(3, 3, 33, 130)):
        with torch.inference_mode():
            found, expected = fast(images), units(images)
        assert largest_difference(dict(found), dict(expected)) < TOLERANCES[dtype]
        assert all(
            value.is_contiguous(memory_format=torch.channels_last) for value in found.values()
        )


def test_outputs_of_stages_are_not_overwritten():
    fast, images = optimized(network()), torch.randn(2, 3, 70, 90)
    with torch.inference_mode():
        both = fast(images)
        for name, value in both.items():
            alone = optimized(network(out_indices=None, out_features=[name]))
            alone.load_state_dict(fast.state_dict(), strict=False)
            assert largest_difference({name: alone(images)[name]}, {name: value}) < 1e-5


def chained():
    return optimized(network())


def with_hook(name):
    fast = chained()
    module = fast.get_submodule(name)
    module.register_forward_hook(lambda *_: None)
    return fast


def with_user_conv():
    class Own(FoldedConv2d):
        pass

    fast = chained()
    for unit in (
        each for name in ("stage1", "stage2", "stage3", "stage4") for each in getattr(fast, name)
    ):
        unit.conv2.__class__ = Own
    return fast


# Networks whose first stage must not run as a chain.
OTHERS = {
    "hook on a unit": lambda: with_hook("stage1.0"),
    "hook on a norm": lambda: with_hook("stage1.0.norm2"),
    "hook on an activation": lambda: with_hook("stage1.0.norm3.act"),
    "hook on a convolution": lambda: with_hook("stage1.0.conv3"),
    "hook on the shortcut": lambda: with_hook("stage1.0.downsample"),
    "hook on its convolution": lambda: with_hook("stage1.0.downsample.conv"),
    "valid": lambda: optimized(network(global_padding="valid")),
    "gelu": lambda: optimized(network(hidden_act="gelu")),
    "bottleneck": lambda: optimized(network(layer_type="bottleneck")),
    "contiguous": lambda: optimized(network(), channels_last=False),
    "in place": lambda: optimize_in_place(network(), keep_pages=False),
    "float16": lambda: optimized(network(), dtype=torch.float16),
    "user's convolution": with_user_conv,
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_networks_run_layer_by_layer(name, no_kernel):
    fast = OTHERS[name]()
    with torch.inference_mode():
        images = torch.randn(1, 3, 160, 192)
        fast.stage1(fast.stem(images.to(next(fast.parameters()).dtype)))


def test_the_networks_of_this_package_run_as_chains(no_kernel):
    images = torch.randn(1, 3, 64, 64)
    for fast in (chained(), optimized(network(global_padding="same"))):
        with torch.inference_mode(), pytest.raises(ChainError):
            fast(images)


def test_modes_see_every_operator(no_kernel):
    fast, images = chained(), torch.randn(1, 3, 64, 64)
    with torch.no_grad(), FlopCounterMode(display=False):
        fast(images)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        fast(images)


def test_a_network_of_chains_is_not_compiled(no_kernel):
    model = network()
    fast = optimized(model, compile=True)
    fast.load_state_dict(model.state_dict())  # would be an error for compiled ones
    with torch.inference_mode(), pytest.raises(ChainError):  # the eager one
        fast(torch.randn(1, 3, 64, 64))


def scaled(unit):
    unit.conv2.weight.mul_(-1)


def shifted(unit):
    unit.norm2.bias.add_(1)


def strided(unit):
    unit.conv2.stride, unit.downsample.conv.stride = (2, 2), (2, 2)


def replaced(unit):
    unit.norm2.weight = nn.Parameter(unit.norm2.weight * 2, requires_grad=False)


def smoothed(unit):
    unit.norm2.eps = 1.0


def regrouped(unit):
    unit.norm2.num_groups = 1


def activated(unit):
    unit.norm2.act.__class__ = nn.Sigmoid


def projected(unit):
    unit.downsample.norm = nn.GroupNorm(1, len(unit.conv3.weight))


def viewed(unit):
    """Leaves the address of the filters as it is."""
    unit.conv2.weight.data = unit.conv2.weight.data.transpose(2, 3)


CHANGES = [scaled, shifted, strided, replaced, smoothed, regrouped, activated, projected, viewed]


@pytest.mark.parametrize("change", CHANGES)
def test_changes_are_seen(change):
    fast, images = chained(), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = fast(images)
        change(fast.stage1[0])
        found, expected = fast(images), layer_by_layer(fast)(images)
    assert largest_difference(dict(found), dict(expected)) < 1e-5
    assert found["stage1"].shape != before["stage1"].shape or (
        largest_difference(dict(found), dict(before)) > 0.01
    )


def test_filters_at_the_address_of_freed_ones_are_seen():
    fast, images = chained(), torch.randn(1, 3, 64, 64)
    unit = fast.stage1[0]
    weight = unit.conv2.weight.detach().clone(memory_format=torch.preserve_format)
    with torch.no_grad():
        for factor in (1, -2, 3, -4):  # all in their version 0
            unit.conv2.weight = None
            unit.conv2.weight = nn.Parameter(weight * factor, requires_grad=False)
            found, expected = fast(images), layer_by_layer(fast)(images)
            assert largest_difference(dict(found), dict(expected)) < 1e-5


def test_a_weight_that_is_no_parameter_any_more():
    fast, images = chained(), torch.randn(1, 3, 64, 64)
    conv = fast.stage1[0].conv2
    weight = conv.weight.detach()
    del conv.weight
    with torch.no_grad():
        for factor in (1, -2):
            conv.weight = weight * factor
            found, expected = fast(images), layer_by_layer(fast)(images)
            assert largest_difference(dict(found), dict(expected)) < 1e-5


def test_weights_whose_changes_are_not_counted():
    with torch.inference_mode():
        fast = chained().double().float()
        images = torch.randn(1, 3, 64, 64)
        for _ in range(3):
            for weight in fast.parameters():
                weight.mul_(-1.5)
            found, expected = fast(images), layer_by_layer(fast)(images)
            assert largest_difference(dict(found), dict(expected)) < 1e-5


@pytest.mark.parametrize("dtype", [None, torch.float32])
def test_models_that_are_optimized_in_inference_mode_run_as_chains(dtype, no_kernel):
    with torch.inference_mode():
        fast = optimized(network(), dtype=dtype)
        with pytest.raises(ChainError):
            fast(torch.randn(1, 3, 64, 64))


def test_links_of_replaced_units_are_freed():
    fast, images = chained(), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for _ in range(3):
            fast.stage2[1] = copy.deepcopy(fast.stage2[1])
            fast(images)
    gc.collect()
    assert len(fast.stage2._links) == len(fast.stage2) == 2


def test_the_input_is_kept_after_a_unit_is_removed():
    fast = chained()
    channels = fast.stage2[1].conv1.weight.shape[1]
    del fast.stage2[0]
    x = torch.randn(1, channels, 9, 9).contiguous(memory_format=torch.channels_last)
    before = x.clone()
    with torch.no_grad():
        fast.stage2(x)
    assert torch.equal(x, before)


def test_a_negated_view_has_its_values():
    fast = chained().stage1
    x = torch.randn(1, fast[0].conv1.weight.shape[1], 9, 9)
    x = x.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        expected = fast(-x)
        torch.testing.assert_close(fast(torch._neg_view(x)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["weight_steps", "input_steps"])
def test_steps_of_another_type(name):
    if not can_multiply(torch.int8):
        pytest.skip("not with 8 bits on this processor")
    fast, images = optimized(network(), dtype=torch.int8), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = fast(images)
        conv = fast.stage1[0].conv2
        setattr(conv, name, getattr(conv, name).double())
        assert largest_difference(dict(fast(images)), dict(expected)) == 0


def put(layer, name, value):
    setattr(layer, name, nn.Parameter(value.detach().clone(), requires_grad=False))


def narrow(unit):
    put(unit.conv1, "weight", unit.conv1.weight[:-8])


def narrow_input(unit):
    for layer in (unit.conv1, unit.downsample.conv):
        put(layer, "weight", layer.weight[:, :-8])
    put(unit.norm1, "weight", unit.norm1.weight[:-8])
    put(unit.norm1, "bias", unit.norm1.bias[:-8])
    unit.norm1.num_channels, unit.norm1.num_groups = unit.norm1.num_channels - 8, 1


def narrow_output(unit):
    put(unit.conv3, "weight", unit.conv3.weight[:-8])


def wide_output(unit):
    put(unit.conv3, "weight", torch.cat([unit.conv3.weight] * 2))


def branch_strides(unit):
    unit.conv2.stride = (2, 2)


def shortcut_strides(unit):
    unit.downsample.conv.stride = (2, 2)


def without_padding(unit):
    unit.conv2.padding = (0, 0)


def other_dilation(unit):
    unit.conv2.dilation = (2, 2)


def groups_that_do_not_divide(unit):
    unit.norm2.num_groups = 3


def no_groups(unit):
    unit.norm2.num_groups = 0


def norm_without_values(unit):
    unit.norm2.to("meta")


def filters_without_values(unit):
    unit.conv2.to("meta")


MISFITS = [
    *(narrow, narrow_input, narrow_output, wide_output, branch_strides, shortcut_strides),
    *(without_padding, other_dilation, groups_that_do_not_divide),
]


@pytest.mark.parametrize("change", MISFITS)
def test_layers_that_do_not_fit_raise_pytorchs_error(change):
    fast = chained()
    change(fast.stage1[0])
    with torch.no_grad(), pytest.raises(RuntimeError):
        fast(torch.randn(1, 3, 64, 64))


@pytest.mark.parametrize(
    "change", [*MISFITS, no_groups, norm_without_values, filters_without_values]
)
def test_layers_that_do_not_fit_never_reach_the_kernel(change, no_kernel):
    stage = chained().stage1
    x = torch.randn(1, stage[0].conv1.weight.shape[1], 9, 9)
    with torch.no_grad():
        with pytest.raises(ChainError):
            stage(x)
        change(stage[0])
        assert stage._chain(x) is None


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda fast: pickle.loads(pickle.dumps(fast))])
def test_copies(copied):
    fast, images = chained(), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = fast(images)
        assert largest_difference(dict(copied(fast)(images)), dict(expected)) == 0
