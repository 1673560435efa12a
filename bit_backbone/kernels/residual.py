"""The residual sum, in the memory of the branch where nobody else can hold that."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from torch import Tensor, nn

from bit_backbone.kernels.activations import activation_name
from bit_backbone.kernels.gate import has_hooks, is_eager

Layer = TypeVar("Layer", bound=type[nn.Module])
Add = Callable[[Any, Tensor, Tensor], Tensor]

# Exactly these classes with these forwards: another of a user's may keep what it returns.
_OWNERS: dict[type, Any] = {nn.Identity: nn.Identity.forward}


def returns_new_memory(layer: Layer) -> Layer:
    """Class decorator: neither the layer nor autograd keeps what its forward returns."""
    _OWNERS[layer] = layer.forward
    return layer


def are_owned(*layers: nn.Module) -> bool:
    """Whether only their caller holds what layers return: they are ours, and without hooks."""
    owned = all(type(of) in _OWNERS and type(of).forward is _OWNERS[type(of)] for of in layers)
    return owned and not has_hooks(*layers)


def in_place_where_unseen(add: Add) -> Add:
    """Decorates a residual unit's ``add(branch, shortcut)``.

    The sum is written over the branch if ``conv3``, ``norm3`` with its activation and
    ``drop_path``, which made it, are the package's own and no hook sees them. Elsewhere ``add``
    itself runs: tracers and compilers record it, and may return any operation's result. So it does
    without a norm: the branch may then be what an earlier layer, which a hook sees, has returned.
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
