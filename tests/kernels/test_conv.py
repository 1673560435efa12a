"""1x1 convolutions as products of matrices: the same values and gradients, and where."""

import pytest
import torch
from torch.nn import functional as F

from bit_backbone.network.std_conv import StdConv2d, standardize


@pytest.fixture
def products(monkeypatch):
    """The shapes of the maps that were multiplied."""
    seen = []
    multiply = torch.bmm
    monkeypatch.setattr(torch, "bmm", lambda a, b: seen.append(tuple(b.shape)) or multiply(a, b))
    return seen


def strided(stride, padding=None):
    return StdConv2d(6, 4, 1, stride=stride, padding=padding, eps=1e-10)


@pytest.mark.parametrize("padding", [None, "same", "valid"])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("shape", [(2, 6, 8, 12), (3, 6, 7, 9), (1, 6, 1, 1)])
def test_values_and_gradients_are_those_of_a_convolution(padding, stride, shape, products):
    conv, x = strided(stride, padding), torch.randn(shape, requires_grad=True)
    expected = F.conv2d(x, standardize(conv.weight, conv.eps), stride=stride)
    cotangent = torch.randn_like(expected)
    gradients = torch.autograd.grad(expected, (x, conv.weight), cotangent)
    found = conv(x)
    assert products == [(shape[0], 6, expected[0, 0].numel())]
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, (x, conv.weight), cotangent), gradients)


def test_second_derivatives():
    conv = strided(2).double()
    x = torch.randn(2, 6, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(conv, x)
    assert torch.autograd.gradcheck(conv, x, check_forward_ad=True, check_batched_grad=True)


def test_the_result_can_be_added_to_without_a_copy():
    out = strided(1)(torch.randn(2, 6, 5, 5))
    assert not out._is_view()
    assert out.add_(1.0).grad_fn.name() == "AddBackward0"


def test_other_layouts_are_left_to_convolutions(products):
    x = torch.randn(2, 6, 8, 8)
    strided(1)(x.to(memory_format=torch.channels_last))
    strided(1)(x.transpose(2, 3))
    assert products == []


def test_many_small_images_are_left_to_convolutions(products):
    conv = StdConv2d(64, 64, 1)  # 4096 weights; an image of 32 pixels has as many numbers
    for images, pixels in ((2, 31), (2, 32), (1, 31)):
        conv(torch.randn(images, 64, 1, pixels))
    assert products == [(2, 64, 32), (1, 64, 31)]


def test_tracers_record_a_convolution():
    conv = strided(2)
    traced = torch.jit.trace(conv, torch.randn(1, 6, 8, 8), check_trace=False)
    exported = torch.export.export(conv, (torch.randn(1, 6, 8, 8),)).graph_module.code
    for text in (str(traced.graph), exported):
        assert "conv" in text
        assert "bmm" not in text


def test_autocast_narrows_the_weight_once(monkeypatch):
    shapes = []
    multiply = torch.bmm

    def watched(matrices, maps):
        shapes.append((matrices.dtype, matrices.stride(0)))
        return multiply(matrices, maps)

    monkeypatch.setattr(torch, "bmm", watched)
    x = torch.randn(2, 6, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = strided(1)(x)
        wide = strided(1).double()(x.double())
    assert shapes == [(torch.bfloat16, 0), (torch.float64, 0)]
    assert narrow.dtype == torch.bfloat16
    assert wide.dtype == torch.float64
