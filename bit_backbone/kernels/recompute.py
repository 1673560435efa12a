"""Training with less memory: what a residual unit computes is computed again in backward.

Two ways, both by ``torch.utils.checkpoint``: everything but the unit's input, or everything but its
input and its convolutions, the costly part (selective activation checkpointing).
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
    """Policy that saves what the first convolutions of a unit return.

    Args:
        count: How many. Where the last one is only added to something, backward needs its inputs
            and not its result.
    """

    def __init__(self, count: int) -> None:
        self.left = {False: count, True: count}  # in forward, and when it is computed again

    def __call__(self, context: Any, operator: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
        if operator in _CONVOLUTIONS:
            self.left[context.is_recompute] -= 1
            if self.left[context.is_recompute] >= 0:
                return CheckpointPolicy.MUST_SAVE
        return CheckpointPolicy.PREFER_RECOMPUTE


def recomputable(forward: Forward) -> Forward:
    """Decorates the forward of a residual unit.

    The unit's ``grad_checkpointing`` says whether all of it is computed again in backward, its
    ``activation_recompute`` whether all but the first ``saved_convolutions``. Inside torch.compile
    the second does nothing: the partitioner decides itself what to compute again. Neither does
    anything under torch.func, which knows no checkpoints, and under tracers.
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
