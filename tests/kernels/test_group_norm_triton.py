"""The Triton kernels against PyTorch's GroupNorm in float64.

They need a GPU or Triton's interpreter, which TRITON_INTERPRET=1 starts: test_group_norm_act.py
runs this file so where there is no GPU.
"""

import os

import pytest
import torch

from bit_backbone.kernels import group_norm as kernels
from bit_backbone.kernels import group_norm_act, kernel_policy
from bit_backbone.kernels.activations import ACTIVATIONS, activate
from bit_backbone.network.layers import GroupNormAct

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
pytestmark = pytest.mark.skipif(
    not (torch.cuda.is_available() or INTERPRETED), reason="needs a GPU or TRITON_INTERPRET=1"
)
DEVICE = "cpu" if INTERPRETED else "cuda"
TOLERANCE = {torch.float32: 3e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}  # of the norm


@pytest.fixture(autouse=True)
def _triton():
    with kernel_policy("triton"):
        yield


def tensors(shape, dtype=torch.float32, layout=torch.contiguous_format, mean=1.0):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator) * 3 + mean
    weight, bias = torch.randn((2, shape[1]), generator=generator).to(DEVICE)
    return x.to(DEVICE, dtype).contiguous(memory_format=layout), weight, bias


def exact(x, groups, weight, bias, act, gradient=None):
    """Value in float64, and the gradients of x, weight and bias if one of the value is given."""
    x, weight, bias = (t.detach().double().requires_grad_() for t in (x, weight, bias))
    y = activate(torch.group_norm(x, groups, weight, bias, 1e-5), act)
    if gradient is None:
        return y.detach()
    return y.detach(), *torch.autograd.grad(y, (x, weight, bias), gradient.double())


def relative(found, expected):
    return float((found.detach().double() - expected).norm() / expected.norm().clamp(min=1e-3))


def check(x, groups, weight, bias, act="relu", layout=torch.contiguous_format):
    x, weight, bias = (t.detach().requires_grad_() for t in (x, weight, bias))
    y = group_norm_act(x, groups, weight, bias, 1e-5, None if act == "none" else act)
    gradient = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y)
    found = y, *torch.autograd.grad(y, (x, weight, bias), gradient)
    for value, like in zip(found, (x, x, weight, bias), strict=True):
        assert value.dtype == like.dtype
        assert value.shape == like.shape
    assert all(t.is_contiguous(memory_format=layout) for t in found[:2])
    expected = exact(x, groups, weight, bias, act, gradient)
    errors = [relative(f, e) for f, e in zip(found, expected, strict=True)]
    assert max(errors) < TOLERANCE[x.dtype], errors


SHAPES = [
    ((2, 32, 7, 9), 8),
    ((1, 64, 33, 65), 32),  # two channels a group, a size that no tile divides
    ((3, 8, 1, 1), 8),  # a single value in each group
    ((3, 64, 1, 1), 32),
    ((2, 24, 5, 3), 1),  # channels that are no power of two
    ((1, 512, 2, 3), 8),  # 64 channels a group
    ((2, 64, 1, 13), 1),
    ((1, 8, 131, 67), 8),  # several chunks of each channel
    ((1, 72, 45, 31), 8),  # more channels than a tile has, several chunks
]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("shape", "groups"), SHAPES)
def test_value_and_gradients_at_every_shape(shape, groups, layout):
    check(*add_groups(tensors(shape, layout=layout), groups), layout=layout)


def add_groups(inputs, groups):
    x, weight, bias = inputs
    return x, groups, weight, bias


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("act", ACTIVATIONS)
def test_every_activation_in_every_dtype(act, dtype):
    inputs = tensors((2, 16, 9, 5), dtype, torch.channels_last, mean=0.0)
    check(*add_groups(inputs, 4), act, torch.channels_last)


def test_weights_in_half_precision():
    x, weight, bias = tensors((2, 16, 9, 5), torch.bfloat16)
    check(x, 4, weight.bfloat16(), bias.bfloat16())


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x[..., ::2],
        lambda x: x.transpose(2, 3),
        lambda x: x[:, 8:24],
        lambda x: x[1:2, :, :, :1],
        lambda x: x[:, :, :1].expand(-1, -1, 5, -1),
    ],
)
def test_views_that_are_not_dense(view):
    x = view(tensors((2, 32, 6, 11))[0])
    weight, bias = tensors((1, x.shape[1], 1, 1))[1:]
    check(x, 8, weight, bias)


@pytest.mark.parametrize("shape", [(0, 8, 3, 3), (2, 8, 0, 3)])
def test_nothing_comes_of_nothing(shape):
    x, weight, bias = (t.requires_grad_() for t in tensors(shape))
    y = group_norm_act(x, 4, weight, bias, 1e-5, "relu")
    assert y.shape == shape
    y.sum().backward()
    assert x.grad.shape == shape
    assert not weight.grad.any()
    assert not bias.grad.any()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("mean", [1e3, -1e4])
def test_a_large_mean_cancels_nothing(mean, layout):
    x, weight, bias = tensors((2, 16, 61, 67), layout=layout, mean=mean)
    y = group_norm_act(x, 4, weight, bias, 1e-5, None)
    # x itself is exact to 2 ** -24 of its mean, which the deviation of 3 is to be seen against
    assert relative(y, exact(x, 4, weight, bias, "none")) < 3 * abs(mean) * 2**-24


def test_channels_of_one_group_with_means_far_apart():
    x, weight, bias = tensors((1, 16, 40, 50))
    x += 1e3 * torch.arange(16, device=DEVICE).view(1, 16, 1, 1)
    check(x, 2, weight, bias, "none")


def test_nan_and_infinity_stay_in_their_group():
    x, weight, bias = tensors((2, 8, 5, 5))
    x[0, 0, 2, 2] = float("nan")
    x[1, 7, 0, 0] = float("inf")
    y = group_norm_act(x, 4, weight, bias, 1e-5, "relu")
    assert y[0, :2].isnan().all()
    assert y[1, 6:].isnan().any()
    assert y[0, 2:].isfinite().all()
    assert y[1, :6].isfinite().all()


def test_gradients_can_be_differentiated():
    x, weight, bias = (t.requires_grad_() for t in tensors((1, 8, 4, 5)))
    found, expected = [], []
    for dtype, into in ((torch.float32, found), (torch.float64, expected)):
        inputs = [t.detach().to(dtype).requires_grad_() for t in (x, weight, bias)]
        y = group_norm_act(inputs[0], 4, *inputs[1:], 1e-5, "gelu")
        penalty = torch.autograd.grad(y.pow(3).sum(), inputs, create_graph=True)
        into += torch.autograd.grad(sum(g.pow(2).sum() for g in penalty), inputs)
    errors = [relative(f, e) for f, e in zip(found, expected, strict=True)]
    assert max(errors) < 1e-4, errors


@pytest.mark.parametrize("requires", [(True, False, False), (False, True, True)])
def test_gradients_of_some_inputs_alone(requires):
    inputs = tensors((2, 8, 4, 5))
    for tensor, wanted in zip(inputs, requires, strict=True):
        tensor.requires_grad_(wanted)
    group_norm_act(inputs[0], 4, *inputs[1:], 1e-5, "relu").sum().backward()
    assert tuple(t.grad is not None for t in inputs) == requires


def test_the_operator_is_well_formed():
    x, weight, bias = (t.requires_grad_() for t in tensors((2, 8, 4, 5)))
    torch.library.opcheck(
        torch.ops.bit_backbone.group_norm_act.default, (x, 4, weight, bias, 1e-5, "relu")
    )


def test_the_layer_takes_the_kernels_unless_its_activation_is_the_users(monkeypatch):
    calls = []
    real = kernels._group_norm_act
    monkeypatch.setattr(kernels, "_group_norm_act", lambda *a: calls.append(a[-1]) or real(*a))
    norm = GroupNormAct(4, 8).to(DEVICE)
    x = tensors((2, 8, 4, 5))[0]
    expected = exact(x, 4, norm.weight, norm.bias, "relu")
    assert relative(norm(x), expected) < 1e-6
    assert calls == ["relu"]
    hook = norm.act.register_forward_hook(lambda *_: None)
    assert relative(norm(x), expected) < 1e-6
    hook.remove()
    norm.act = torch.nn.LeakyReLU(1.0)
    assert relative(norm(x), exact(x, 4, norm.weight, norm.bias, "none")) < 1e-6
    assert calls == ["relu"]
    norm.act = torch.nn.GELU(approximate="tanh")
    norm(x)
    assert calls == ["relu", "gelu_new"]


@pytest.mark.skipif(INTERPRETED, reason="needs a GPU")
def test_a_captured_graph_replays():
    norm = GroupNormAct(32, 256).cuda().bfloat16()
    static = torch.randn(1, 256, 40, 60, device="cuda", dtype=torch.bfloat16)
    with torch.no_grad():
        norm(static)  # compiles the kernels
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = norm(static)
        static.copy_(torch.randn_like(static))
        graph.replay()
        assert torch.equal(y, norm(static))


@pytest.mark.skipif(INTERPRETED, reason="needs a GPU")
def test_autocast_keeps_half_precision():
    norm = GroupNormAct(8, 64).cuda()
    x = torch.randn(2, 64, 9, 9, device="cuda", dtype=torch.bfloat16)
    with torch.autocast("cuda", torch.bfloat16):
        assert norm(x).dtype == torch.bfloat16
