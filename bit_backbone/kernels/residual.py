"""The residual sum, in the memory of the branch if nothing else can hold it."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from torch import Tensor, nn

from bit_backbone.kernels.activations import activation_name
from bit_backbone.kernels.gate import has_hooks, is_eager

Layer = TypeVar("Layer", bound=type[nn.Module])
Add = Callable[[Any, Tensor, Tensor], Tensor]

# Exactly these classes with these forwards: a user's class may keep its results.
_OWNERS: dict[type, Any] = {nn.Identity: nn.Identity.forward}


def returns_new_memory(layer: Layer) -> Layer:
    """Class decorator: neither the layer nor autograd keeps the result of its forward."""
    _OWNERS[layer] = layer.forward
    return layer


def are_owned(*layers: nn.Module) -> bool:
    """Whether only the caller holds the layers' results: they are the package's, without hooks."""
    owned = all(type(of) in _OWNERS and type(of).forward is _OWNERS[type(of)] for of in layers)
    return owned and not has_hooks(*layers)


def in_place_where_unseen(add: Add) -> Add:
    """Decorates a residual unit's ``add(branch, shortcut)``.

    The sum overwrites the branch if the layers that made it (``conv3``, ``norm3`` with its
    activation, ``drop_path``) are the package's own and have no hooks. Otherwise ``add`` itself
    runs. It also runs under tracers and compilers, which may return any operation's result, and
    without a norm, when the branch may be the result of an earlier layer with a hook.
    """

    @wraps(add)  # TorchScript compiles what it wraps
    def run(unit: Any, branch: Tensor, shortcut: Tensor) -> Tensor:
        if is_eager(branch) and _owns_branch(unit):
            return branch.add_(shortcut)
        return add(unit, branch, shortcut)

    return run


def _owns_branch(unit: Any) -> bool:
    norm = unit.norm3
    owned = are_owned(unit.conv3, norm, unit.drop_path) and isinstance(norm, nn.GroupNorm)
    return owned and activation_name(norm.act) is not None
