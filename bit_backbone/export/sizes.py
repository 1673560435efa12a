"""Arithmetic of sizes that stays arithmetic in every kind of capture.

A size is an int, a symbol of torch.export, or, under torch.jit.trace, a tensor. Python's ``min``
compares symbols, and so fixes the outcome for good; these do not.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

Size = Any  # int, torch.SymInt, or a tensor under torch.jit.trace


def least(a: Size, b: Size) -> Size:
    """Returns the smaller of two sizes."""
    if torch.jit.is_tracing():
        return torch.minimum(torch.as_tensor(a), torch.as_tensor(b))
    return torch.sym_min(a, b)


def largest(a: Size, b: Size) -> Size:
    """Returns the larger of two sizes."""
    if torch.jit.is_tracing():
        return torch.maximum(torch.as_tensor(a), torch.as_tensor(b))
    return torch.sym_max(a, b)


def as_tensor(size: Size, like: Tensor) -> Tensor:
    """Returns a size as a tensor [] on the device and in the type of another."""
    if isinstance(size, Tensor):
        return size.to(like)
    return torch.scalar_tensor(size, dtype=like.dtype, device=like.device)


def symbol(size: Size) -> Size:
    """Returns a positive size as a symbol of its own, under torch.export.

    Otherwise it is an expression of the image's size, which grows with each layer, and compilers
    take hours over large ones.
    """
    if not isinstance(size, torch.SymInt):
        return size
    name = torch.scalar_tensor(size, dtype=torch.int64).item()
    torch._check(name >= 1)
    return name
