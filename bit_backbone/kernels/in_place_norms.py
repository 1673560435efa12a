"""Norms that overwrite their input, if a unit has just made it and nothing else can hold it."""

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
    """The ids of the norms that may overwrite their input in this thread's current unit."""

    norms: frozenset[int] = frozenset()


_inside = _Inside()


def norms_overwrite(*pairs: tuple[str, str]) -> Callable[[Forward], Forward]:
    """Decorates a unit's forward without gradients.

    Args:
        *pairs: Names of a convolution and of a norm. In the decorated body, only the norm reads the
            convolution's result.
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
    """Whether only a convolution and a norm of a unit ever hold the map between them.

    It is False if a module that returns its own input replaces the convolution, or if the norm is
    used twice in the unit, with another input.
    """
    return (
        isinstance(conv, nn.Conv2d)
        and are_owned(conv, norm)
        and list(unit._modules.values()).count(norm) == 1
        and not is_watched()
    )


def may_overwrite(norm: Any) -> bool:
    """Whether this thread's current unit has no other use for the norm's input."""
    return id(norm) in _inside.norms
