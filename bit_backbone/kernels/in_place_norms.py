"""Norms that write over their input, where a unit has just made it and nobody else can hold it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

from bit_backbone.kernels.gate import is_compiled, is_watched
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
            _inside.norms = frozenset(id(n) for c, n in layers if _is_between_them(unit, c, n))
            try:
                return forward(unit, x, activated)
            finally:
                _inside.norms = before

        return run

    return decorate


def _is_between_them(unit: nn.Module, conv: nn.Module, norm: nn.Module) -> bool:
    """Whether only a convolution and a norm of a unit ever see the map that goes between them.

    Not if the place of the convolution is taken by what passes its own input on, nor if the norm
    has a second place in the unit, where it gets another input.
    """
    return (
        isinstance(conv, nn.Conv2d)
        and are_owned(conv, norm)
        and list(unit._modules.values()).count(norm) == 1
        and not is_watched()
    )


def may_overwrite(norm: Any) -> bool:
    """Whether the unit that this thread is computing has no other use for the norm's input."""
    return id(norm) in _inside.norms
