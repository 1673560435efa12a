"""Who looks at what a module returns: nothing that is seen may be overwritten afterwards."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from bit_backbone.network.layers import DropPath, GroupNormAct
from bit_backbone.network.std_conv import StdConv2d, is_real

__all__ = ["add_to_branch", "is_watched"]

# Their outputs are their own, and autograd does not keep them.
_MAKERS = (StdConv2d, GroupNormAct, DropPath, nn.Identity)


def is_watched(*modules: nn.Module) -> bool:
    """Whether hooks, PyTorch's global ones included, see what one of the modules returns.

    They may keep it; and what a backward hook has seen is a view that refuses writes in place.
    """
    return bool(_has_any_global_hook()) or any(
        m._forward_hooks or m._backward_hooks or m._backward_pre_hooks for m in modules
    )


def add_to_branch(branch: Tensor, shortcut: Tensor, unit: Any) -> Tensor:
    """Returns the residual sum: in the memory of the branch, where nobody else can hold that.

    Not where tracers and compilers record the operations: feature extractors may return any of
    them, and compilers find out for themselves what they can overwrite. Nor where the user has put
    another module in the place of one that made the branch.

    Args:
        branch: [N, C, H, W], what ``conv3``, ``norm3`` (where it comes after) and ``drop_path``
            made.
        shortcut: [N, C, H, W].
        unit: The residual unit.
    """
    makers = (unit.conv3, unit.norm3, unit.drop_path)
    own = (
        not (torch.compiler.is_compiling() or torch.jit.is_tracing())
        and is_real(branch)
        and all(type(maker) in _MAKERS for maker in makers)
        and not is_watched(*makers)
    )
    return branch.add_(shortcut) if own else branch + shortcut
