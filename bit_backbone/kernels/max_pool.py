"""3x3 max-pooling with stride 2; over rows and then over columns if that is faster."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from bit_backbone.kernels.gate import is_eager, is_recorded


def max_pool(x: Tensor) -> Tensor:
    """Pools [N, C, H, W] with a 3x3 window, stride 2 and a border of -inf.

    Returns:
        [N, C, (H + 1) // 2, (W + 1) // 2].
    """
    if not torch.jit.is_scripting():  # noqa: SIM102 (the only condition that TorchScript skips)
        if _is_faster_by_axes(x):
            return _max_of_threes(_max_of_threes(x, 2), 3)
    return F.max_pool2d(x, 3, stride=2, padding=1)


def _is_faster_by_axes(x: Tensor) -> bool:
    """Whether x is contiguous on a CPU, without autograd.

    PyTorch's kernel for this layout compares one value at a time, and takes five times as long.
    With autograd, equal values would share the gradient, but pooling gives it to the first one.
    """
    return is_eager(x) and x.device.type == "cpu" and x.is_contiguous() and not is_recorded(x)


def _max_of_threes(x: Tensor, axis: int) -> Tensor:
    """Returns the largest of the values at 2i - 1, 2i and 2i + 1 that exist along an axis."""
    even, odd = (x.movedim(axis, 0)[first::2] for first in (0, 1))
    largest = even.movedim(0, axis).clone(memory_format=torch.contiguous_format)
    out = largest.movedim(axis, 0)
    torch.maximum(out[: len(odd)], odd, out=out[: len(odd)])
    torch.maximum(out[1:], odd[: len(even) - 1], out=out[1:])
    return largest
