"""Convolutions of normalised maps in C++: values and tables against float64."""

import itertools
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bit_backbone.kernels import native, norm_conv
from bit_backbone.kernels.norm_conv import Filters, Norm
from bit_backbone.network.padding import pad_same

ROOT = Path(__file__).parents[2]
LAST = torch.channels_last
needs_kernels = pytest.mark.skipif(
    not norm_conv.can_multiply(torch.float32), reason="the kernels cannot run here"
)
# images, in, out, height, width, kernel, stride, dilation
SHAPES = [
    (1, 64, 64, 9, 7, 1, 1, 1),
    (1, 64, 64, 9, 7, 3, 1, 1),
    (2, 36, 40, 5, 31, 3, 2, 1),
    (3, 100, 20, 8, 8, 1, 2, 1),
    (5, 8, 12, 6, 40, 3, 1, 2),
    (1, 300, 96, 3, 3, 3, 1, 4),
    (7, 16, 8, 1, 1, 3, 2, 1),
    (1, 4, 4, 70, 1, 3, 1, 1),
    (2, 128, 72, 33, 70, 1, 1, 1),
]


@pytest.fixture(params=[1, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def norm_of(channels, groups=4):
    norm = nn.GroupNorm(groups, channels).requires_grad_(False)
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    nn.init.normal_(norm.bias)
    return norm


def conv_of(weight, kernel, stride, dilation, same):
    padding = 0 if kernel == 1 else dilation
    return SimpleNamespace(
        weight=weight,
        stride=(stride,) * 2,
        dilation=(dilation,) * 2,
        padding=(padding,) * 2,
        pads_same=same,
    )


def exact(x, norm, conv):
    x = F.relu(F.group_norm(x.double(), norm.num_groups, norm.weight.double(), norm.bias.double()))
    return convolved(x, conv.weight.double(), conv)


def convolved(x, weight, conv):
    if not conv.pads_same:
        return F.conv2d(x, weight, None, conv.stride, conv.padding, conv.dilation)
    kernel = weight.shape[2]
    x = pad_same(x, kernel, conv.stride[0], conv.dilation[0], 0.0) if kernel > 1 else x
    return F.conv2d(x, weight, None, conv.stride, 0, conv.dilation)


def normalised(y, tables):
    centre, scale, shift = tables.double()[..., None, None].unbind(1)
    return (y.double() - centre) * scale + shift


def close(found, expected, tolerance):
    error = (found.double() - expected).abs().max() / expected.abs().max()
    assert error < tolerance, error


@needs_kernels
@pytest.mark.parametrize("dtype", native.DTYPES)
@pytest.mark.parametrize("same", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_tables(shape, same, dtype, threads):
    if not norm_conv.can_multiply(dtype):
        pytest.skip("not with this type on this processor")
    images, channels, filters, height, width, kernel, stride, dilation = shape
    x = torch.randn(images, channels, height, width) * 2 + 3
    x = x.to(dtype).contiguous(memory_format=LAST)
    weight = torch.randn(filters, channels, kernel, kernel) / (channels * kernel**2) ** 0.5
    conv = conv_of(weight.to(dtype), kernel, stride, dilation, same)
    norm, following = norm_of(channels), norm_of(filters)
    expected = exact(x, norm, conv)
    tables = norm_conv.norm_tables(x, Norm(norm))
    laid_out = Filters(conv)
    y, next_tables = norm_conv.norm_conv(x, tables, laid_out, Norm(following))
    tolerance = 3e-6 if dtype == torch.float32 else 2e-2
    assert y.dtype == dtype
    assert y.is_contiguous(memory_format=LAST)
    close(y, expected, tolerance)
    of_result = F.group_norm(expected, 4, following.weight.double(), following.bias.double())
    if expected[0].numel() > 4 * 8:  # of a few values, the variance is a difference of equals
        close(normalised(expected, next_tables), of_result, 10 * tolerance)
    total = torch.randn_like(expected).to(dtype).contiguous(memory_format=LAST)
    before = total.clone()
    added, none = norm_conv.norm_conv(x, tables, laid_out, None, total)
    assert added is total
    assert none.numel() == 0
    close(total, before.double() + expected, tolerance)


@needs_kernels
@pytest.mark.parametrize("dtype", native.DTYPES)
def test_results_are_the_same_again(dtype, threads):
    if not norm_conv.can_multiply(dtype):
        pytest.skip("not with this type on this processor")
    x = torch.randn(3, 64, 23, 17, dtype=dtype).contiguous(memory_format=LAST)
    conv = conv_of(torch.randn(64, 64, 3, 3, dtype=dtype), 3, 1, 1, False)
    norm, filters = Norm(norm_of(64)), Filters(conv)
    runs = []
    for _ in range(5):
        tables = norm_conv.norm_tables(x, norm)
        runs.append((tables, *norm_conv.norm_conv(x, tables, filters, norm)))
    for run, values in itertools.product(runs[1:], range(3)):
        assert torch.equal(run[values], runs[0][values])


@needs_kernels
@pytest.mark.parametrize("dtype", native.DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_integers_are_exact(shape, dtype, threads):
    if not norm_conv.can_multiply(torch.int8):
        pytest.skip("not with 8 bits on this processor")
    images, channels, filters, height, width, kernel, stride, dilation = shape
    x = torch.randn(images, channels, height, width, dtype=dtype).contiguous(memory_format=LAST)
    conv = conv_of(
        torch.randint(-127, 128, (filters, channels, kernel, kernel), dtype=torch.int8),
        kernel, stride, dilation, False,
    )  # fmt: skip
    steps, scales = torch.rand(channels) * 0.03 + 1e-3, torch.rand(filters)
    tables = norm_conv.norm_tables(x, Norm(norm_of(channels), steps))
    levels = (normalised(x, tables).float() + 0.5).floor().clamp(0, 255).double()
    y, _ = norm_conv.norm_conv(x, tables, Filters(conv, scales))
    sums = convolved(levels, conv.weight.double(), conv)
    # A value that lies between two levels may be rounded otherwise in double precision.
    tolerance = 4 * 127 * scales[:, None, None].double()
    rounding = 0.0 if dtype == torch.float32 else 1 / 128
    expected = sums * scales[:, None, None].double()
    assert ((y.double() - expected).abs() <= tolerance + rounding * expected.abs()).all()
    exactly = (y.double() - expected).abs() <= (rounding + 1e-6) * expected.abs()
    assert exactly.double().mean() > 0.95


@needs_kernels
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_shows(value):
    x = torch.randn(2, 8, 6, 6).contiguous(memory_format=LAST)
    x[0, 3, 2, 2] = value
    norm, conv = Norm(norm_of(8, 1)), conv_of(torch.randn(8, 8, 3, 3), 3, 1, 1, False)
    y, tables = norm_conv.norm_conv(x, norm_conv.norm_tables(x, norm), Filters(conv), norm)
    assert y[0].isnan().any(), y[0]
    assert tables[0].isnan().any()
    assert y[1].isfinite().all()
    assert tables[1].isfinite().all()


@needs_kernels
def test_moments_of_values_far_from_zero():
    x = torch.zeros(1, 4, 50, 50).contiguous(memory_format=LAST)
    conv = conv_of(torch.randn(8, 4, 1, 1), 1, 1, 1, False)
    total = (torch.randn(1, 8, 50, 50) + 1e4).contiguous(memory_format=LAST)
    norm = norm_of(8)
    tables = torch.zeros(1, 3, 4)
    _, found = norm_conv.norm_conv(x, tables, Filters(conv), Norm(norm), total)
    expected = F.group_norm(total.double(), 4, norm.weight.double(), norm.bias.double())
    close(normalised(total, found), expected, 1e-5)


LIMITED = """
import torch
from torch import nn
from types import SimpleNamespace
from bit_backbone.kernels import norm_conv
x = torch.randn(2, 24, 9, 17).contiguous(memory_format=torch.channels_last)
conv = SimpleNamespace(
    weight=torch.randn(40, 24, 3, 3),
    stride=(1, 1),
    dilation=(1, 1),
    padding=(1, 1),
    pads_same=False,
)
norm = nn.GroupNorm(4, 24).requires_grad_(False)
known = [norm_conv.can_multiply(each) for each in (torch.float32, torch.bfloat16, torch.int8)]
if known[0]:
    tables = norm_conv.norm_tables(x, norm_conv.Norm(norm))
    y, _ = norm_conv.norm_conv(x, tables, norm_conv.Filters(conv))
    expected = nn.functional.conv2d(norm(x).relu(), conv.weight, padding=1)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)
print(*known)
"""


@needs_kernels
@pytest.mark.parametrize(
    ("limit", "known"),
    [
        ("SSE41", "False False False"),
        ("AVX2", "True False False"),
        ("AVX512_CORE", "True False False"),
    ],
)
def test_onednns_limit_of_instructions_is_kept(limit, known):
    done = subprocess.run(
        [sys.executable, "-c", LIMITED],
        env=os.environ | {"PYTHONPATH": str(ROOT), "ONEDNN_MAX_CPU_ISA": limit},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == known
