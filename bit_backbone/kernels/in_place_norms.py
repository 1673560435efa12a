"""Norms that write over their input, where a unit has just made it and nobody else can hold it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from bit_backbone.kernels.gate import is_compiled
from bit_backbone.kernels.residual import are_owned

Forward = Callable[..., Tensor]


class _Inside(threading.local):
    """The ids of the norms that may overwrite in the unit that this thread is computing."""

    norms: frozenset[int] = frozenset()


_inside = _Inside()


def norms_overwrite(*pairs: tuple[str, str]) -> Callable[[Forward], Forward]:
    """Decorates a unit's forward without gradients.

    Args:
        *pairs: Names of a convolution and of a norm. In the body the norm gets what the convolution
            returns, and nothing else reads that.
    """

    def decorate(forward: Forward) -> Forward:
        @wraps(forward)  # TorchScript compiles what it wraps
        def run(unit: Any, x: Tensor, activated: Tensor | None = None) -> Tensor:
            # torch.fx passes proxies
            if torch.is_grad_enabled() or is_compiled() or not isinstance(x, Tensor):
                return forward(unit, x, activated)
            layers = [(getattr(unit, conv), getattr(unit, norm)) for conv, norm in pairs]
            before = _inside.norms
            _inside.norms = frozenset(id(norm) for conv, norm in layers if are_owned(conv, norm))
            try:
                return forward(unit, x, activated)
            finally:
                _inside.norms = before

        return run

    return decorate


def may_overwrite(norm: Any) -> bool:
    """Whether the unit that this thread is computing has no other use for the norm's input."""
    return id(norm) in _inside.norms
