"""GroupNorm + activation: the twin, the rule that chooses, and the kernels' own tests."""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from bit_backbone.kernels import (
    activation_name,
    group_norm_act,
    is_faster_in_triton,
    kernel_policy,
)
from bit_backbone.kernels import group_norm as kernels
from bit_backbone.kernels.activations import ACTIVATIONS, activate
from bit_backbone.network.layers import activation

triton_only = pytest.mark.skipif(not kernels._HAS_TRITON, reason="needs Triton")


def triton_is_before_3_5() -> bool:
    return kernels._HAS_TRITON and tuple(map(int, version("triton").split(".")[:2])) < (3, 5)


operator = torch.ops.bit_backbone.group_norm_act


def inputs(dtype=torch.float64, shape=(2, 8, 3, 5)):
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=dtype, requires_grad=True)
    weight, bias = (torch.randn(shape[1], dtype=dtype, requires_grad=True) for _ in range(2))
    return x, weight, bias


@triton_only
@pytest.mark.skipif(torch.cuda.is_available(), reason="the GPU runs them itself")
@pytest.mark.skipif(
    triton_is_before_3_5() and np.lib.NumpyVersion(np.__version__) >= "2.4.0",
    reason="the interpreter of Triton 3.4, torch 2.8's, needs NumPy before 2.4",
)
def test_the_kernels_pass_their_tests_in_tritons_interpreter():
    root = Path(__file__).parents[2]
    test = str(Path(__file__).with_name("test_group_norm_triton.py"))
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", test]
    run = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
    assert " passed" in run.stdout


@triton_only
@pytest.mark.parametrize("layout", ["contiguous", "channels-last", "one of everything"])
def test_the_kernels_compile_for_gpus(layout):
    """For GPUs that need not be here; the interpreter takes what compilers reject."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile
    from triton.runtime.jit import JITFunction

    from bit_backbone.kernels import triton_kernels

    ones = {
        "contiguous": ["position_stride"],
        "channels-last": ["channel_stride"],
        "one of everything": ["group_channels", "groups", "chunks", "channels", "position_stride"],
    }[layout]
    constants = {"BLOCK_C": 4, "BLOCK_P": 64, "BLOCK": 64, "ACT": "gelu_new"}
    constants |= dict.fromkeys(ones, 1)
    halves, floats = ("x_ptr", "y_ptr", "out_ptr", "gradient_ptr"), ("eps", "elements")

    def kind(name):
        if name.endswith("_ptr"):
            return "*bf16" if name in halves else "*fp32"
        return "constexpr" if name in constants else "fp32" if name in floats else "i32"

    kernels_of_module = [
        f
        for f in vars(triton_kernels).values()
        if isinstance(f, JITFunction) and f.arg_names[0].endswith("_ptr")
    ]
    assert len(kernels_of_module) == 6
    for kernel in kernels_of_module:
        known = {n: constants[n] for n in kernel.arg_names if n in constants}
        source = ASTSource(kernel, {n: kind(n) for n in kernel.arg_names}, known)
        compiled = compile(source, target=GPUTarget("cuda", 80, 32), options={"num_warps": 8})
        assert ".target sm_80" in compiled.asm["ptx"]


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_gradcheck_of_the_operator_on_a_cpu(act):
    x, weight, bias = inputs()
    assert torch.autograd.gradcheck(
        lambda *t: operator(t[0], 4, *t[1:], 1e-5, act)[0], (x, weight, bias)
    )
    assert torch.autograd.gradgradcheck(
        lambda *t: operator(t[0], 4, *t[1:], 1e-5, act)[0], (x, weight, bias), atol=1e-4
    )


@pytest.mark.parametrize("act", ACTIVATIONS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_operator_and_twin_are_one_function(act, layout):
    x, weight, bias = inputs(torch.float32)
    x = x.detach().contiguous(memory_format=layout).requires_grad_()
    found, expected = (
        operator(x, 4, weight, bias, 1e-5, act)[0],
        group_norm_act(x, 4, weight, bias, 1e-5, None if act == "none" else act),
    )
    torch.testing.assert_close(found, expected)
    assert found.is_contiguous(memory_format=layout)
    gradient = torch.randn_like(found)
    wanted = (x, weight, bias)
    torch.testing.assert_close(
        torch.autograd.grad(found, wanted, gradient),
        torch.autograd.grad(expected, wanted, gradient),
    )


def test_the_operator_is_well_formed_and_compiles_whole():
    x, weight, bias = inputs(torch.float32)
    arguments = (x, 4, weight, bias, 1e-5, "relu")
    torch.library.opcheck(operator.default, arguments)
    compiled = torch.compile(lambda *a: operator(*a)[0], fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*arguments), operator(*arguments)[0])
    compiled(*arguments).sum().backward()
    assert x.grad is not None


def test_a_fake_gpu_is_enough_to_trace():
    with torch._subclasses.FakeTensorMode():
        x = torch.empty(2, 64, 9, 9, device="cuda", dtype=torch.bfloat16)
        x = x.to(memory_format=torch.channels_last)
        weight = bias = torch.empty(64, device="cuda")
        y, mean, rstd = operator(x, 32, weight, bias, 1e-5, "relu")
    assert (y.dtype, y.device.type, y.stride()) == (torch.bfloat16, "cuda", x.stride())
    assert mean.shape == rstd.shape == (2, 32)
    assert mean.dtype == torch.float32


WRONG = [
    ({"act": "tanh"}, r"act must be None or one of relu, gelu, .*got 'tanh'"),
    ({"x": torch.zeros(2, 8, 3)}, r"x must be \[N, C, H, W\].*num_groups = 4, got \[2, 8, 3\]"),
    ({"num_groups": 3}, r"multiple of num_groups = 3, got \[2, 8, 3, 5\]"),
    ({"num_groups": 0}, r"multiple of num_groups = 0"),
    ({"weight": torch.ones(4)}, r"weight and bias must be \[8\].*got \[4\] and \[8\]"),
]


@pytest.mark.parametrize(("wrong", "message"), WRONG)
def test_wrong_arguments_are_named(wrong, message):
    x, weight, bias = inputs()
    arguments = {
        "x": x,
        "num_groups": 4,
        "weight": weight,
        "bias": bias,
        "eps": 1e-5,
        "act": "relu",
    }
    with pytest.raises(ValueError, match=message):
        group_norm_act(**(arguments | wrong))


def test_wrong_policies_are_named(monkeypatch):
    with (
        pytest.raises(ValueError, match="one of auto, triton, torch, got 'cuda'"),
        kernel_policy("cuda"),
    ):
        pass
    monkeypatch.setattr(kernels, "_HAS_TRITON", False)
    with (
        pytest.raises(ValueError, match="needs Triton: pip install triton"),
        kernel_policy("triton"),
    ):
        pass


@pytest.mark.parametrize(
    ("shape", "captured", "policy", "chosen"),
    [
        ((1, 256, 200, 334), False, "auto", True),
        ((1, 256, 14, 14), False, "auto", False),
        ((2, 256, 14, 14), True, "auto", True),
        ((1, 64, 7, 7), True, "auto", False),
        ((1, 256, 200, 334), False, "torch", False),
        ((1, 64, 7, 7), False, "triton", True),
    ],
)
def test_the_rule_chooses_by_size_and_capture(monkeypatch, shape, captured, policy, chosen):
    monkeypatch.setattr(kernels, "can_run_in_triton", lambda x, weight: True)
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: captured)
    monkeypatch.setattr(kernels, "_HAS_TRITON", True)
    with kernel_policy(policy):
        assert is_faster_in_triton(torch.empty(shape), torch.empty(shape[1])) is chosen


def test_a_cpu_keeps_pytorchs_own_even_if_triton_is_asked_for():
    x, weight, bias = inputs(torch.float32)
    for policy in ("auto", "torch", *(["triton"] if kernels._HAS_TRITON else [])):
        with kernel_policy(policy):
            assert not is_faster_in_triton(x, weight)
            assert "ReluBackward" in str(group_norm_act(x, 4, weight, bias, 1e-5, "relu").grad_fn)


@pytest.mark.parametrize("name", ["relu", "gelu", "gelu_new", "selu"])
def test_modules_have_the_names_of_their_functions(name):
    module = activation(name)
    assert activation_name(module) == name
    x = torch.randn(50)
    assert torch.equal(module(x.clone()), activate(x.clone(), name))


def test_modules_that_only_they_can_compute_have_no_name():
    class Mine(nn.ReLU):
        pass

    hooked = nn.ReLU()
    hooked.register_forward_hook(lambda *_: None)
    assert [activation_name(m) for m in (Mine(), hooked, nn.LeakyReLU())] == [None] * 3


def test_fake_cuda_maps_ask_no_driver():
    with FakeTensorMode():
        x, weight = torch.empty(1, 64, 512, 512, device="cuda"), torch.empty(64, device="cuda")
        assert not is_faster_in_triton(x, weight)
