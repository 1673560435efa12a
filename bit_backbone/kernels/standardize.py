"""Weight standardization on CPUs, with a forward of one native pass over the filters."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from bit_backbone.kernels import native
from bit_backbone.kernels.gate import is_recorded
from bit_backbone.kernels.reused_memory import empty_like

Standardize = Callable[[Tensor, float], Tensor]


def native_where_possible(standardize: Standardize) -> Standardize:
    """Decorates ``standardize(weight, eps)`` for [out, in, height, width].

    The decorated function also defines the gradient.
    """

    @wraps(standardize)  # TorchScript compiles what it wraps
    def run(weight: Tensor, eps: float) -> Tensor:
        if not native.can_run(weight) or not _keeps_filters_together(weight):
            return standardize(weight, eps)
        if not is_recorded(weight):
            return native.standardize(weight, eps, empty_like(weight))[0]
        if weight.dtype != torch.float32:
            return standardize(weight, eps)
        return _Standardize.apply(weight, eps, standardize)

    return run


def _keeps_filters_together(weight: Tensor) -> bool:
    return weight.is_contiguous() or (
        weight.ndim == 4 and weight.is_contiguous(memory_format=torch.channels_last)
    )


class _Standardize(torch.autograd.Function):
    """The native forward, with the gradient of PyTorch's layer norm."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, eps: float, standardize: Standardize) -> Tensor:
        standardized, mean, rstd = native.standardize(weight, eps)
        ctx.save_for_backward(weight, mean, rstd)
        ctx.eps, ctx.standardize = eps, standardize
        return standardized

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weight, mean, rstd = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: the gradient is to be differentiated
            made = ctx.standardize(weight, ctx.eps)
            return *torch.autograd.grad(made, weight, gradient, create_graph=True), None, None
        rows = weight if weight.is_contiguous() else weight.permute(0, 2, 3, 1)
        found = torch.ops.aten.native_layer_norm_backward(
            gradient if rows is weight else gradient.permute(0, 2, 3, 1),
            *(rows, rows.shape[1:], mean.view(-1, 1, 1, 1), rstd.view(-1, 1, 1, 1)),
            *(None, None, [True, False, False]),
        )[0]
        return found if rows is weight else found.permute(0, 3, 1, 2), None, None
