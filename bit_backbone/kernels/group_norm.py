"""GroupNorm + activation as one operator: Triton or C++ where faster, PyTorch's own elsewhere.

``torch.ops.bit_backbone.group_norm_act`` and its ``_backward`` are custom operators with fake
kernels and derivatives, so that torch.compile, torch.export and fake tensors support them. They
run ``triton_group_norm`` where it can run, and ``torch_group_norm`` elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from bit_backbone.kernels import native, torch_group_norm
from bit_backbone.kernels.activations import activate, activation_name, check_activation
from bit_backbone.kernels.gate import has_values, is_compiled, is_eager, is_recorded
from bit_backbone.kernels.in_place_norms import may_overwrite

Policy = Literal["auto", "triton", "torch"]

TRITON_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# Three launches of Triton from Python take about 0.1 ms, too long for small maps. This is an
# estimate; tools/benchmark_kernels.py can measure it. A captured CUDA graph launches at once.
SMALLEST_EAGER = 4 << 20  # elements
SMALLEST_CAPTURED = 1 << 16
LARGEST_IMAGE = 1 << 31  # elements: the kernels' offsets within an image are 32-bit

_HAS_TRITON = find_spec("triton") is not None
_policy: Policy = "auto"


@contextmanager
def kernel_policy(policy: Policy) -> Iterator[None]:
    """Sets which GroupNorm + activation runs inside a ``with`` block, in every thread.

    Args:
        policy: "auto": Triton if ``is_faster_in_triton``, C++ if ``runs_natively``. "triton":
            Triton wherever its kernels can run, and inside torch.compile as an opaque operator.
            "torch": PyTorch's operators.

    Raises:
        ValueError: The policy is unknown, or "triton" and Triton is not installed.
    """
    global _policy
    if policy not in get_args(Policy):
        raise ValueError(f"policy must be one of {', '.join(get_args(Policy))}, got {policy!r}")
    if policy == "triton" and not _HAS_TRITON:
        raise ValueError("policy 'triton' needs Triton: pip install triton, or use 'auto'")
    before, _policy = _policy, policy
    try:
        yield
    finally:
        _policy = before


def group_norm_act(
    x: Tensor, num_groups: int, weight: Tensor, bias: Tensor, eps: float, act: str | None
) -> Tensor:
    """GroupNorm and activation of [N, C, H, W].

    Statistics are at least float32. The Triton kernels keep memory format and dtype. Under CUDA's
    autocast a half-precision ``x`` stays in half precision, while PyTorch's GroupNorm converts it
    to float32, and the next convolution converts it back.

    Args:
        x: [N, C, H, W], contiguous or channels-last (anything else is copied first).
        num_groups: Number of groups, a divisor of C.
        weight: Scale, [C].
        bias: Shift, [C].
        eps: Added to the variance.
        act: "relu", "gelu", "gelu_new", "selu", or None for no activation.

    Returns:
        [N, C, H, W].

    Raises:
        ValueError: The activation is unknown, or the shapes do not match.
    """
    name = check_activation(act)
    if x.dim() != 4 or num_groups < 1 or x.shape[1] % num_groups:
        raise ValueError(
            f"x must be [N, C, H, W] with C a multiple of num_groups = {num_groups}, "
            f"got {list(x.shape)}"
        )
    if weight.shape != x.shape[1:2] or bias.shape != x.shape[1:2]:
        raise ValueError(
            f"weight and bias must be [{x.shape[1]}], one value for each channel of x, "
            f"got {list(weight.shape)} and {list(bias.shape)}"
        )
    if is_faster_in_triton(x, weight):
        return _group_norm_act(x, num_groups, weight, bias, eps, name)[0]
    return pytorch_group_norm_act(x, num_groups, weight, bias, eps, name)


def pytorch_group_norm_act(
    x: Tensor, num_groups: int, weight: Tensor, bias: Tensor, eps: float, act: str
) -> Tensor:
    """Computes ``group_norm_act`` with PyTorch's own operators."""
    # F.group_norm rejects groups of a single value (a 1x1 map, one channel a group).
    return activate(torch.group_norm(x, num_groups, weight, bias, eps), act)


def fused_where_faster(forward: Callable[[Any, Tensor], Tensor]) -> Callable[[Any, Tensor], Tensor]:
    """Decorates the forward of a GroupNorm that ends in a module ``act``.

    If ``group_norm_act`` or the C++ kernel is faster, it runs instead. It does not if ``act``
    itself must be called: a module of an unknown kind, or one with hooks.
    """

    @wraps(forward)  # TorchScript compiles what it wraps
    def run(norm: Any, x: Tensor) -> Tensor:
        if is_faster_in_triton(x, norm.weight):
            act = activation_name(norm.act)
            if act is not None:
                return group_norm_act(x, norm.num_groups, norm.weight, norm.bias, norm.eps, act)
        elif runs_natively(x, norm.num_groups, norm.weight, norm.bias):
            act = activation_name(norm.act)
            if act in native.ACTIVATIONS:
                out = x if may_overwrite(norm) else None
                return native.group_norm_act(
                    x, norm.num_groups, norm.weight, norm.bias, norm.eps, act, out
                )
        return forward(norm, x)

    return run


def triton_status() -> str:
    """Returns which kernels run on GPUs."""
    return "Triton's for large maps" if _HAS_TRITON else "PyTorch's, because Triton is missing"


def is_faster_in_triton(x: Tensor, weight: Tensor) -> bool:
    """Whether GroupNorm + activation of ``x`` uses the Triton kernels; this rule is the only one.

    They do not run on a CPU, nor inside torch.compile and torch.export: inductor fuses GroupNorm
    with its neighbours and splits long sums itself, and an exported program should not contain our
    operators. Otherwise they run from ``SMALLEST_EAGER`` elements on, or in the capture of a CUDA
    graph from ``SMALLEST_CAPTURED`` on, if ``can_run_in_triton`` allows it.
    """
    if _policy == "torch" or not isinstance(x, Tensor):  # torch.fx passes proxies
        return False
    if _policy == "triton":
        return can_run_in_triton(x, weight)
    if not x.is_cuda or is_compiled() or not can_run_in_triton(x, weight):
        return False
    captured = torch.cuda.is_current_stream_capturing()
    return x.numel() >= (SMALLEST_CAPTURED if captured else SMALLEST_EAGER)


def runs_natively(x: Tensor, num_groups: int, weight: Tensor, bias: Tensor) -> bool:
    """Whether GroupNorm + activation of ``x`` uses the C++ kernel, on a CPU without autograd.

    It does not under autocast, which changes the type, or for inputs that PyTorch rejects.
    """
    return (
        _policy == "auto"
        and isinstance(x, Tensor)  # torch.fx passes proxies
        and not is_recorded(x, weight, bias)
        and not torch.is_autocast_enabled("cpu")
        and native.can_run(x, weight, bias)
        and x.dim() == 4
        and (x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last))
        and weight.shape == bias.shape == x.shape[1:2]
        and x.shape[1] % num_groups == 0
        and all(
            t.device == x.device and t.dtype in (x.dtype, torch.float32) for t in (weight, bias)
        )
    )


def can_run_in_triton(x: Tensor, weight: Tensor) -> bool:
    """Whether the kernels accept ``x``: a plain CUDA map in one of ``TRITON_DTYPES``.

    TorchScript, torch.func, forward-mode differentiation and tensor subclasses cannot use them and
    get PyTorch's own operators.
    """
    return (
        _HAS_TRITON
        and (is_compiled() or (is_eager(x, weight) and has_values(x)))
        and (x.is_cuda or _interprets())
        and x.dtype in TRITON_DTYPES
        and weight.dtype in TRITON_DTYPES
        and x.device == weight.device
        and x.dim() == 4
        and x.shape[1] * x.shape[2] * x.shape[3] < LARGEST_IMAGE
    )


def _interprets() -> bool:
    """Whether Triton's interpreter runs the kernels, on any device (TRITON_INTERPRET=1)."""
    import triton

    return bool(triton.knobs.runtime.interpret)


def implementation(x: Tensor, weight: Tensor) -> ModuleType:
    """Returns ``triton_group_norm`` where it can run, else ``torch_group_norm``."""
    if not can_run_in_triton(x, weight):
        return torch_group_norm
    from bit_backbone.kernels import triton_group_norm

    return triton_group_norm


def dense_format(x: Tensor) -> torch.memory_format:
    """Returns the memory format in which the implementations read ``x``."""
    last = torch.channels_last
    return last if x.is_contiguous(memory_format=last) else torch.contiguous_format


@torch.library.custom_op("bit_backbone::group_norm_act", mutates_args=())
def _group_norm_act(
    x: Tensor, num_groups: int, weight: Tensor, bias: Tensor, eps: float, act: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the activated map, and mean and 1 / standard deviation of each group, [N, groups].

    The statistics are for the backward pass; gradients do not flow through them.
    """
    x = x.contiguous(memory_format=dense_format(x))
    return implementation(x, weight).forward(x, num_groups, weight, bias, eps, act)


@_group_norm_act.register_fake
def _(
    x: Tensor, num_groups: int, weight: Tensor, bias: Tensor, eps: float, act: str
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = torch.promote_types(x.dtype, torch.float32)
    mean, rstd = (x.new_empty((x.shape[0], num_groups), dtype=dtype) for _ in range(2))
    return torch.empty_like(x, memory_format=dense_format(x)), mean, rstd


@torch.library.custom_op("bit_backbone::group_norm_act_backward", mutates_args=())
def _group_norm_act_backward(
    gradient: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor, bias: Tensor, act: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the gradients of input, weight and bias."""
    layout = dense_format(x)
    x, gradient = (t.contiguous(memory_format=layout) for t in (x, gradient))
    return implementation(x, weight).backward(gradient, x, mean, rstd, weight, bias, act)


@_group_norm_act_backward.register_fake
def _(
    gradient: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor, bias: Tensor, act: str
) -> tuple[Tensor, Tensor, Tensor]:
    like_x = torch.empty_like(x, memory_format=dense_format(x))
    return like_x, torch.empty_like(weight), torch.empty_like(bias)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, ctx.num_groups, weight, bias, ctx.eps, ctx.act = inputs
    ctx.save_for_backward(x, weight, bias, *output[1:])


def _differentiate(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, bias, mean, rstd = ctx.saved_tensors
    if torch.is_grad_enabled():  # create_graph=True: the gradient is to be differentiated, too
        y = pytorch_group_norm_act(x, ctx.num_groups, weight, bias, ctx.eps, ctx.act)
        wanted = [t for t in (x, weight, bias) if t.requires_grad]
        found = iter(torch.autograd.grad(y, wanted, gradient, create_graph=True))
        dx, dweight, dbias = (next(found) if t.requires_grad else None for t in (x, weight, bias))
    else:
        dx, dweight, dbias = _group_norm_act_backward(
            gradient, x, mean, rstd, weight, bias, ctx.act
        )
    return dx, None, dweight, dbias, None, None


_group_norm_act.register_autograd(_differentiate, setup_context=_save)
