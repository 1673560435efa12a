"""Training with less memory: backward recomputes the results of residual units.

There are two ways, both with ``torch.utils.checkpoint``: save only the unit's input, or also the
results of its costly convolutions (selective activation checkpointing).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from bit_backbone.kernels.gate import is_compiled, is_traced, is_transformed

Forward = Callable[..., Tensor]

_CONVOLUTIONS = (torch.ops.aten.convolution.default, torch.ops.aten.bmm.default)


class _SaveConvolutions:
    """Policy that saves the results of the first convolutions of a unit.

    Args:
        count: Number of convolutions. If the last one's result is only added to something,
            backward does not need it.
    """

    def __init__(self, count: int) -> None:
        self.left = {False: count, True: count}  # in forward, and in the recompute

    def __call__(self, context: Any, operator: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
        if operator in _CONVOLUTIONS:
            self.left[context.is_recompute] -= 1
            if self.left[context.is_recompute] >= 0:
                return CheckpointPolicy.MUST_SAVE
        return CheckpointPolicy.PREFER_RECOMPUTE


def recomputable(forward: Forward) -> Forward:
    """Decorates the forward of a residual unit.

    If the unit's ``grad_checkpointing`` is set, backward recomputes all of it. If its
    ``activation_recompute`` is set, backward recomputes all except the first
    ``saved_convolutions``; this has no effect inside torch.compile, whose partitioner chooses what
    to recompute. Neither has an effect under torch.func, which lacks checkpoints, or tracers.
    """

    @wraps(forward)  # TorchScript compiles what it wraps
    def run(unit: Any, x: Tensor, activated: Tensor | None = None) -> Tensor:
        if not torch.is_grad_enabled() or not isinstance(x, Tensor):  # torch.fx passes proxies
            return forward(unit, x, activated)
        if is_transformed() or is_traced():
            return forward(unit, x, activated)
        if unit.grad_checkpointing:
            return checkpoint(forward, unit, x, activated, use_reentrant=False)
        if unit.activation_recompute and not is_compiled():
            save = _SaveConvolutions(unit.saved_convolutions)
            return checkpoint(
                *(forward, unit, x, activated),
                use_reentrant=False,
                context_fn=lambda: create_selective_checkpoint_contexts(save),
            )
        return forward(unit, x, activated)

    return run
