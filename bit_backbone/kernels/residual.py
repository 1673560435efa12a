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

# Exactly these classes: a subclass of a user's may keep what it returns.
_OWNERS: set[type] = {nn.Identity}


def returns_new_memory(layer: Layer) -> Layer:
    """Class decorator: neither the layer nor autograd keeps what its forward returns."""
    _OWNERS.add(layer)
    return layer


def are_owned(*layers: nn.Module) -> bool:
    """Whether only their caller holds what layers return: they are ours, and without hooks."""
    return _OWNERS.issuperset(map(type, layers)) and not has_hooks(*layers)


def in_place_where_unseen(add: Add) -> Add:
    """Decorates a residual unit's ``add(branch, shortcut)``.

    The sum is written over the branch if ``conv3``, ``norm3`` with its activation and
    ``drop_path``, which made it, are the package's own and no hook sees them. Elsewhere ``add``
    itself runs: tracers and compilers record it, and may return any operation's result.
    """

    @wraps(add)  # TorchScript compiles what it wraps
    def run(unit: Any, branch: Tensor, shortcut: Tensor) -> Tensor:
        owned = are_owned(unit.conv3, unit.norm3, unit.drop_path)
        if is_eager(branch) and owned and activation_name(unit.norm3.act) is not None:
            return branch.add_(shortcut)
        return add(unit, branch, shortcut)

    return run
