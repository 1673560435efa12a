"""The layers against their definitions, and the inputs that break them elsewhere."""

import math

import numpy as np
import pytest
import torch
from networks import relative_difference
from torch import nn
from torch.nn import functional as F

from bit_backbone.network.layers import (
    DropPath,
    GroupNormAct,
    activation,
    check_images,
)
from bit_backbone.network.padding import centre_crop_like, pad_same
from bit_backbone.network.std_conv import StdConv2d, standardize
from bit_backbone.network.stem_pool import StemPool, max_pool_in_zero_ring


def by_batch_norm(weight, eps):
    """Weight standardization as timm and transformers compute it."""
    flat = weight.reshape(1, weight.shape[0], -1)
    return F.batch_norm(flat, None, None, training=True, eps=eps).reshape_as(weight)


@pytest.mark.parametrize("eps", [1e-10, 1e-8, 1e-3])
@pytest.mark.parametrize("shape", [(8, 3, 7, 7), (5, 4, 1, 1), (1, 1, 1, 2)])
def test_standardize_equals_the_batch_norm_trick_in_value_and_gradient(shape, eps):
    mine = (torch.randn(shape, dtype=torch.float64) * 0.1 + 1).requires_grad_()
    theirs = mine.detach().clone().requires_grad_()
    cotangent = torch.randn(shape, dtype=torch.float64)
    ours, reference = standardize(mine, eps), by_batch_norm(theirs, eps)
    torch.testing.assert_close(ours, reference, rtol=1e-13, atol=1e-13)
    ours.backward(cotangent)
    reference.backward(cotangent)
    torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-11, atol=1e-11)


def test_standardize_takes_one_element_filters_and_no_epsilon():
    assert torch.equal(standardize(torch.randn(4, 1, 1, 1), 1e-10), torch.zeros(4, 1, 1, 1))
    exact = standardize(torch.randn(4, 2, 3, 3, dtype=torch.float64), 0.0)
    assert exact.var(dim=(1, 2, 3), correction=0).tolist() == pytest.approx([1.0] * 4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("deviation", [1e-6, 1e-4, 1.0])
def test_standardize_is_exact_to_the_dtype_however_small_the_filters(dtype, deviation):
    weight = (deviation * torch.randn(16, 8, 3, 3)).to(dtype)
    found = standardize(weight, 1e-10)
    assert found.dtype == dtype
    expected = by_batch_norm(weight.double(), 1e-10)
    assert relative_difference(found.double(), expected) < 2 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("value", [0.0, 1e-7, 0.01, 3.0])
def test_standardize_makes_nothing_of_constant_filters(dtype, value):
    found = standardize(torch.full((16, 8, 3, 3), value, dtype=dtype), 1e-10)
    # what is left is the rounding of the mean, a 1e-7th of it, over sqrt(eps)
    assert found.abs().max() < 0.1


def same_padding(size, kernel, stride, dilation):
    """TensorFlow's rule, as its documentation words it."""
    return max((math.ceil(size / stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)


@pytest.mark.parametrize(
    ("kernel", "stride", "dilation"), [(3, 1, 1), (3, 2, 1), (3, 1, 4), (3, 2, 2), (7, 2, 1)]
)
def test_pad_same_is_the_rule_of_tensorflow(kernel, stride, dilation):
    for height in range(1, 18):
        width = 2 * height + 1
        padded = pad_same(torch.ones(1, 1, height, width), kernel, stride, dilation, 0.0)
        vertical = same_padding(height, kernel, stride, dilation)
        horizontal = same_padding(width, kernel, stride, dilation)
        assert padded.shape[-2:] == (height + vertical, width + horizontal)
        # the odd pixel is at the end
        top, left = vertical // 2, horizontal // 2
        assert padded[..., top : top + height, left : left + width].all()
        assert padded.sum() == height * width


@pytest.mark.parametrize("shift", [-5.0, 0.0, 5.0])
def test_zero_ring_pool_pads_with_zeros_at_every_size(shift):
    for height in range(1, 10):
        for width in range(1, 10):
            x = (torch.randn(2, 3, height, width) + shift).requires_grad_()
            twin = x.detach().clone().requires_grad_()
            found = max_pool_in_zero_ring(x)
            expected = F.max_pool2d(F.pad(twin, [1, 1, 1, 1]), 3, 2)
            assert torch.equal(found, expected)
            cotangent = torch.randn_like(found)
            found.backward(cotangent)
            expected.backward(cotangent)
            torch.testing.assert_close(x.grad, twin.grad)
            with torch.no_grad():  # by rows and columns, and channels-last
                assert torch.equal(max_pool_in_zero_ring(x), expected)
                last = x.to(memory_format=torch.channels_last)
                assert torch.equal(max_pool_in_zero_ring(last), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_zero_ring_pool_keeps_dtype_and_memory_format(dtype):
    x = torch.randn(2, 8, 7, 9, dtype=dtype).contiguous(memory_format=torch.channels_last)
    found = max_pool_in_zero_ring(x)
    assert found.dtype == dtype
    assert found.is_contiguous(memory_format=torch.channels_last)
    contiguous = max_pool_in_zero_ring(x.contiguous())
    assert contiguous.is_contiguous()
    assert torch.equal(contiguous, found)


def test_zero_ring_pool_passes_nan_on():
    x = torch.zeros(1, 1, 4, 4)
    x[..., 0, 0] = float("nan")
    assert max_pool_in_zero_ring(x).isnan().sum() == 1
    assert max_pool_in_zero_ring(x.requires_grad_()).isnan().sum() == 1


def test_stem_pool_of_each_padding():
    x = torch.randn(1, 2, 8, 11) - 3  # negative: a pad of zeros would win everywhere
    tf = F.max_pool2d(F.pad(x, [1, 1, 0, 1], value=-float("inf")), 3, 2)
    assert torch.equal(StemPool("same")(x), tf)
    assert torch.equal(StemPool("valid")(x), F.max_pool2d(x, 3, 2))
    assert torch.equal(StemPool(None)(x), F.max_pool2d(F.pad(x, [1, 1, 1, 1]), 3, 2))


def test_centre_crop_takes_the_middle():
    x = torch.arange(35.0).reshape(1, 1, 5, 7)
    assert torch.equal(centre_crop_like(x, torch.empty(1, 1, 3, 4)), x[..., 1:4, 1:5])
    assert torch.equal(centre_crop_like(x, x), x)


@pytest.mark.parametrize(
    ("padding", "stride", "dilation", "size", "expected"),
    [
        (None, 1, 1, 9, 9),
        (None, 2, 1, 9, 5),
        (None, 1, 4, 9, 9),
        ("same", 1, 4, 9, 9),
        ("same", 2, 1, 8, 4),
        ("same", 2, 1, 9, 5),
        ("valid", 1, 1, 9, 7),
        ("valid", 2, 1, 9, 4),
        ("valid", 1, 4, 9, 1),
    ],
)
def test_convolution_sizes(padding, stride, dilation, size, expected):
    conv = StdConv2d(2, 4, 3, stride=stride, dilation=dilation, padding=padding)
    assert conv(torch.randn(1, 2, size, size)).shape == (1, 4, expected, expected)


def test_convolutions_start_as_kaiming_normal_by_fan_out():
    weight = StdConv2d(64, 128, 3).weight
    assert weight.std().item() == pytest.approx(math.sqrt(2 / (128 * 9)), rel=0.02)
    assert weight.mean().item() == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("relu", F.relu),
        ("gelu", F.gelu),
        ("selu", F.selu),
        ("gelu_new", lambda x: F.gelu(x, approximate="tanh")),
        (None, lambda x: x),
    ],
)
def test_group_norm_and_activation(name, function):
    norm = GroupNormAct(4, 8, name)
    assert isinstance(norm, nn.GroupNorm)  # what detectron2's WEIGHT_DECAY_NORM looks for
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(2, 8, 5, 3)
    kept = x.clone()
    expected = function(F.group_norm(x, 4, norm.weight, norm.bias, 1e-5))
    assert torch.equal(norm(x), expected)
    assert torch.equal(x, kept)


def test_activations_in_place_where_their_gradient_allows_it():
    for name in ("relu", "gelu", "selu", "gelu_new"):
        x = torch.randn(6, requires_grad=True)
        activation(name)(x * 2).sum().backward()
        assert x.grad.isfinite().all()


def test_a_group_of_one_value_becomes_its_bias():
    norm = GroupNormAct(8, 8, None)
    nn.init.normal_(norm.bias)
    found = norm(torch.randn(1, 8, 1, 1))
    torch.testing.assert_close(found.flatten(), norm.bias, rtol=0, atol=1e-4)


def test_drop_path_drops_samples_and_keeps_the_mean():
    layer = DropPath(0.25).train()
    x = torch.ones(40_000, 2, 1, 1)
    dropped = layer(x)
    assert torch.equal(dropped[:, 0], dropped[:, 1])  # a whole sample at a time
    assert dropped.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    # four standard errors of the share of dropped samples
    assert (dropped == 0).float().mean().item() == pytest.approx(0.25, abs=0.0087)
    assert layer.eval()(x) is x


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_drop_path_in_half_precision(dtype):
    dropped = DropPath(0.5).train()(torch.ones(1000, 1, 1, 1, dtype=dtype))
    assert dropped.dtype == dtype
    assert dropped.unique().tolist() == [0, 2]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(3, 8, 8), r"must be \[N, 3, H, W\], got \[3, 8, 8\]"),
        (torch.zeros(1, 1, 8, 8), r"must be \[N, 3, H, W\], got \[1, 1, 8, 8\].*num_channels"),
        (torch.zeros(1, 8, 8, 3), "got"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), r"floating point, got torch.uint8.*/ 255"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.int64), "floating point, got torch.int64"),
        (torch.zeros(1, 3, 8, 1), r"at least 2 pixels high and wide, got \[1, 3, 8, 1\]"),
        (np.zeros((1, 3, 8, 8), np.float32), "must be a torch tensor"),
    ],
)
def test_images_that_no_network_takes(images, message):
    with pytest.raises(ValueError, match=message):
        check_images(images, 3, 2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_images_that_networks_take(dtype):
    images = torch.zeros(1, 3, 8, 8, dtype=dtype)
    assert check_images(images, 3, 2) is images
