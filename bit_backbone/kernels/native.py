"""CPU kernels in C++: GroupNorm with its activation, and weight standardization.

``native_build`` builds them. Where that is impossible, callers use PyTorch's operators.
"""

from __future__ import annotations

import ctypes
import functools

import torch
from torch import Tensor

from bit_backbone.kernels.gate import has_values, is_eager
from bit_backbone.kernels.huge_pages import in_huge_pages
from bit_backbone.kernels.native_build import library, status

__all__ = [
    "ACTIVATIONS",
    "DTYPES",
    "can_run",
    "group_norm_act",
    "group_norm_relu_uint8",
    "library",
    "standardize",
    "status",
]

DTYPES = (torch.float32, torch.bfloat16)
ACTIVATIONS = ("none", "relu")


def can_run(x: Tensor, *others: Tensor) -> bool:
    """Whether the kernels can run on dense CPU tensors: checks mode, types, and that they exist."""
    return (
        is_eager(x, *others)
        and has_values(x, *others)
        and x.device.type == "cpu"
        and x.dtype in DTYPES
        and x.numel() > 0
        and library() is not None
    )


def group_norm_act(
    x: Tensor,
    num_groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    act: str,
    out: Tensor | None = None,
) -> Tensor:
    """GroupNorm and activation of a dense [N, C, H, W] that ``can_run`` accepts, without autograd.

    Args:
        x: Contiguous or channels-last, float32 or bfloat16.
        num_groups: Number of groups.
        weight: Scale, [C].
        bias: Shift, [C].
        eps: Added to the variance.
        act: One of ``ACTIVATIONS``.
        out: Tensor for the result, in the memory format of ``x``; may be ``x``.
    """
    out = in_huge_pages(torch.empty_like(x)) if out is None else out
    kind = _bit(out, 4) | (8 if act == "relu" else 0)
    return _group_norm(kind, x, num_groups, weight, bias, None, eps, out)


def group_norm_relu_uint8(
    x: Tensor, num_groups: int, weight: Tensor, bias: Tensor, steps: Tensor, eps: float
) -> Tensor:
    """GroupNorm, ReLU and quantization of a dense [N, C, H, W] that ``can_run`` accepts.

    Args:
        x: Contiguous or channels-last, float32 or bfloat16.
        num_groups: Number of groups.
        weight: Scale, [C].
        bias: Shift, [C].
        steps: The value of one level of the result, [C].
        eps: Added to the variance.

    Returns:
        uint8 levels in the memory format of ``x``, clipped at 255.
    """
    out = torch.empty_like(x, dtype=torch.uint8)
    steps = steps.float().expand(x.shape[1]).contiguous()
    return _group_norm(16, x, num_groups, weight, bias, steps, eps, out)


def _group_norm(
    kind: int,
    x: Tensor,
    num_groups: int,
    weight: Tensor,
    bias: Tensor,
    steps: Tensor | None,
    eps: float,
    out: Tensor,
) -> Tensor:
    channels_last = not x.is_contiguous()
    images, channels, height, width = x.shape
    threads = torch.get_num_threads()
    weight, bias = weight.float().contiguous(), bias.float().contiguous()
    # Doubles come first, then floats: see native.cpp.
    work = x.new_empty(threads * channels * 5, dtype=torch.float64) if channels_last else out
    sizes = images, height * width, channels, num_groups
    _loaded().bit_group_norm(
        *(kind | channels_last | _bit(x, 2), x.data_ptr(), out.data_ptr(), *sizes),
        *(weight.data_ptr(), bias.data_ptr(), None if steps is None else steps.data_ptr()),
        *(eps, threads, work.data_ptr()),
    )
    return out


def standardize(
    weight: Tensor, eps: float, out: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Gives each filter of a dense weight that ``can_run`` accepts mean 0 and variance 1.

    Args:
        weight: [out, ...], in any dense layout that keeps filters together.
        eps: Added to the variance.
        out: Tensor for the result, in the layout of ``weight``; None for new memory.

    Returns:
        The filters, and their means and 1 / standard deviations, [out], float32.
    """
    out, filters = torch.empty_like(weight) if out is None else out, len(weight)
    # Programs may change the default type and device of new tensors.
    means, rstds = weight.new_empty(2, filters, dtype=torch.float32)
    _loaded().bit_standardize(
        *(_bit(weight, 2), weight.data_ptr(), out.data_ptr(), filters, weight.numel() // filters),
        *(eps, torch.get_num_threads(), means.data_ptr(), rstds.data_ptr()),
    )
    return out, means, rstds


def _bit(tensor: Tensor, bit: int) -> int:
    return bit if tensor.dtype == torch.bfloat16 else 0


@functools.cache
def _loaded() -> ctypes.CDLL:
    kernels = library()
    assert kernels is not None  # can_run has checked it
    address, number, size, real = ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_double
    kernels.bit_group_norm.argtypes = [
        *(number, address, address, size, size, size, size, address, address, address),
        *(real, number, address),
    ]
    kernels.bit_standardize.argtypes = [
        *(number, address, address, size, size, real, number, address, address)
    ]
    kernels.bit_group_norm.restype = kernels.bit_standardize.restype = None
    return kernels
