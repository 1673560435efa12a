"""The C++ kernels: values against float64, and what happens where they cannot be built."""

import concurrent.futures
import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bit_backbone.kernels import native
from bit_backbone.network.layers import GroupNormAct
from bit_backbone.network.std_conv import StdConv2d, standardize

ROOT = Path(__file__).parents[2]
needs_native = pytest.mark.skipif(native.library() is None, reason=native.status())

SHAPES = [
    (1, 64, 9, 7),
    (3, 32, 1, 1),
    (2, 64, 1, 3),
    (5, 96, 13, 4),
    (8, 32, 6, 6),
    (1, 32, 70, 70),
]
LAYOUTS = [torch.contiguous_format, torch.channels_last]


def exact(x, weight, bias, act):
    y = torch.group_norm(x.double(), 32, weight.double(), bias.double(), 1e-5)
    return F.relu(y) if act == "relu" else y


@needs_native
@pytest.mark.parametrize("act", native.ACTIVATIONS)
@pytest.mark.parametrize("dtype", native.DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_group_norm_is_as_exact_as_its_type(shape, layout, dtype, act, threads):
    x = torch.randn(shape) * torch.linspace(0.1, 9, shape[1])[:, None, None] + 50
    x = x.to(dtype).contiguous(memory_format=layout)
    weight, bias = torch.randn(shape[1]), torch.randn(shape[1])
    expected, before = exact(x, weight, bias, act), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = native.group_norm_act(x, 32, weight, bias, 1e-5, act)
        in_place = x.clone(memory_format=torch.preserve_format)
        native.group_norm_act(in_place, 32, weight, bias, 1e-5, act, out=in_place)
    finally:
        torch.set_num_threads(before)
    assert found.dtype == dtype
    assert found.stride() == x.stride()
    # a mean of 50 costs float32 some digits of what is left after it
    tolerance = 2e-4 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)
    assert torch.equal(in_place, found)


@needs_native
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_narrow_result_of_a_wide_map(layout):
    x = torch.randn(2, 64, 5, 6).contiguous(memory_format=layout)
    weight, bias = torch.rand(64), torch.randn(64)
    out = torch.empty_like(x, dtype=torch.bfloat16)
    native.group_norm_act(x, 32, weight, bias, 1e-5, "relu", out=out)
    assert torch.equal(out, native.group_norm_act(x, 32, weight, bias, 1e-5, "relu").bfloat16())


@needs_native
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", native.DTYPES)
def test_what_is_not_finite_shows(value, layout, dtype):
    x = torch.randn(2, 64, 5, 6, dtype=dtype).contiguous(memory_format=layout)
    x[0, 3, 2, 2] = value
    y = native.group_norm_act(x, 32, torch.ones(64), torch.zeros(64), 1e-5, "relu")
    assert y[0, 2:4].isnan().all()  # the group
    assert y[0, 4:].isfinite().all()
    assert y[1].isfinite().all()


@needs_native
def test_a_group_of_equal_values_becomes_its_bias():
    x = torch.full((1, 32, 4, 4), 1e4)
    y = native.group_norm_act(x, 32, torch.ones(32), torch.arange(32.0), 1e-5, "none")
    assert torch.equal(y, torch.arange(32.0)[:, None, None].expand_as(x))


@needs_native
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(8, 3, 7, 7), (16, 64, 1, 1), (5, 512, 3, 3), (1, 1, 1, 1)])
def test_standardization_and_its_gradients(shape, layout):
    weight = (torch.randn(shape) * 0.01 + 3).contiguous(memory_format=layout).requires_grad_()
    wide = weight.detach().double().requires_grad_()
    found, expected = standardize(weight, 1e-10), standardize.__wrapped__(wide, 1e-10)
    assert found.grad_fn.name() == "_StandardizeBackward"
    assert found.stride() == weight.stride()
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)
    cotangent = torch.randn(shape)
    (gradient,) = torch.autograd.grad(found, weight, cotangent)
    plain = standardize.__wrapped__(weight, 1e-10)
    (of_plain,) = torch.autograd.grad(plain, weight, cotangent)
    torch.testing.assert_close(
        gradient, of_plain, rtol=1e-3, atol=1e-3 * of_plain.abs().max().item()
    )


DEFAULTS = """
import torch
from bit_backbone.network import StdConv2d
conv, x = StdConv2d(8, 4096, 1), torch.randn(1, 8, 4, 4)
def gradient():
    return torch.autograd.grad(conv(x).square().sum(), conv.weight)[0]
expected = gradient()
torch.set_default_{}
print(all(torch.equal(gradient(), expected) for _ in range(5)))
"""


@needs_native
@pytest.mark.parametrize(
    "default", ["dtype(torch.float64)", "dtype(torch.bfloat16)", "device('meta')"]
)
def test_defaults_for_new_tensors_change_nothing(default):
    """In a process of its own: a buffer that is too small, or on no CPU, ends it."""
    assert in_a_process(DEFAULTS.format(default)).strip() == "True"


@needs_native
def test_standardization_has_second_derivatives():
    weight = torch.randn(4, 3, 3, 3, requires_grad=True)

    def curvature(function):
        (gradient,) = torch.autograd.grad(
            function(weight, 1e-5).pow(3).sum(), weight, create_graph=True
        )
        return torch.autograd.grad(gradient.square().sum(), weight)[0]

    torch.testing.assert_close(
        curvature(standardize), curvature(standardize.__wrapped__), rtol=1e-3, atol=1e-3
    )


@needs_native
@pytest.mark.parametrize("dtype", native.DTYPES)
def test_with_and_without_gradients_filters_are_the_same(dtype):
    conv = StdConv2d(8, 16, 3).to(dtype)
    with torch.no_grad():
        unrecorded = conv.standardized_weight()
    torch.testing.assert_close(conv.standardized_weight(), unrecorded)
    if dtype == torch.float32:
        assert torch.equal(conv.standardized_weight(), unrecorded)


def in_a_process(code, **environment):
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


FEATURES = """
import torch
from bit_backbone import BitBackbone, optimize_for_inference
from bit_backbone.kernels import native
backbone = BitBackbone(embedding_size=16, hidden_sizes=(32, 64), depths=(1, 1), num_groups=8).eval()
with torch.no_grad():
    y = optimize_for_inference(backbone)(torch.randn(1, 3, 64, 64))["stage2"]
print(native.status(), bool(y.isfinite().all()))
"""


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"BIT_BACKBONE_NATIVE": "0"}, "PyTorch's, because BIT_BACKBONE_NATIVE is 0 True"),
        ({"CXX": "env /bin/false"}, "PyTorch's, because they cannot be built"),
        ({"CXX": "/bin/false"}, "PyTorch's, because they cannot be built"),
        ({"CXX": "/no/such/compiler"}, "PyTorch's, because they cannot be built"),
    ],
)
def test_without_the_kernels_pytorch_serves(environment, told, tmp_path):
    said = in_a_process(FEATURES, TORCH_EXTENSIONS_DIR=str(tmp_path), **environment)
    assert said.startswith(told)
    assert said.strip().endswith("True")
    assert not list(tmp_path.rglob("*.so"))


def test_a_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    said = in_a_process(FEATURES, TORCH_EXTENSIONS_DIR=str(tmp_path / "file"))
    assert said.startswith("PyTorch's, because")


@needs_native
def test_a_compiler_with_a_launcher(tmp_path):
    said = in_a_process(FEATURES, TORCH_EXTENSIONS_DIR=str(tmp_path), CXX="env c++")
    assert said.startswith("native, ")


@needs_native
def test_many_processes_build_at_once(tmp_path):
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        said = list(
            pool.map(lambda _: in_a_process(FEATURES, TORCH_EXTENSIONS_DIR=str(tmp_path)), range(3))
        )
    assert all(line.startswith("native, ") for line in said)
    files = list((tmp_path / "bit_backbone").iterdir())
    assert [file.suffix for file in files] == [".so"]


class NoKernelError(Exception):
    """Raised in the place of the kernel."""


def norm_of(channels=64, act="relu"):
    norm = GroupNormAct(32, channels, act).requires_grad_(False)
    nn.init.uniform_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm


def hooked(norm):
    norm.act.register_forward_hook(lambda *_: None)
    return norm


MAP = torch.randn(2, 64, 5, 6)
NATIVE_CASES = {
    "contiguous": (True, MAP, norm_of()),
    "channels-last": (True, MAP.contiguous(memory_format=torch.channels_last), norm_of()),
    "bfloat16": (True, MAP.bfloat16(), norm_of().bfloat16()),
    "float32 weights for bfloat16": (True, MAP.bfloat16(), norm_of()),
    "trained": (False, MAP, norm_of().requires_grad_(True)),
    "input of autograd": (False, MAP.clone().requires_grad_(), norm_of()),
    "float64": (False, MAP.double(), norm_of().double()),
    "other activation": (False, MAP, norm_of(act="gelu")),
    "hook on the activation": (False, MAP, hooked(norm_of())),
    "strided": (False, MAP[:, :, ::2], norm_of()),
}


@needs_native
@pytest.mark.parametrize("name", NATIVE_CASES)
def test_which_norms_of_an_eager_network_are_native(name, monkeypatch):
    is_native, x, norm = NATIVE_CASES[name]
    expected = norm.act(torch.group_norm(x, 32, norm.weight, norm.bias, norm.eps))
    found = norm(x)
    tolerance = 1e-5 if x.dtype != torch.bfloat16 else 2e-2
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)

    def fail(*_):
        raise NoKernelError

    monkeypatch.setattr(native, "group_norm_act", fail)
    with pytest.raises(NoKernelError) if is_native else contextlib.nullcontext():
        norm(x)


@needs_native
def test_autocast_and_errors_are_pytorchs(monkeypatch):
    norm = norm_of()
    with torch.autocast("cpu", torch.bfloat16):
        assert norm(MAP.bfloat16()).dtype == F.group_norm(MAP.bfloat16(), 32).dtype
    for x in (torch.randn(2, 96, 5, 6), torch.randn(2, 33, 5, 6)):
        with pytest.raises(RuntimeError):
            norm(x)
    with pytest.raises(RuntimeError, match="type"):
        norm_of().bfloat16()(MAP)


@needs_native
@pytest.mark.parametrize("steps", [torch.full((8,), 0.02), torch.tensor([0.02])])
def test_steps_of_another_type_or_one_for_all(steps):
    x, ones = torch.randn(2, 8, 5, 5), torch.ones(8)
    expected = native.group_norm_relu_uint8(x, 4, ones, ones, torch.full((8,), 0.02), 1e-5)
    found = native.group_norm_relu_uint8(x, 4, ones, ones, steps.double(), 1e-5)
    assert torch.equal(found, expected)
