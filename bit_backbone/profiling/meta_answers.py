"""Answers a network's operators on the meta device without torch's compiler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_ATEN = torch.ops.aten
_Sides = Sequence[int]  # of the height and the width


class MetaAnswers(TorchDispatchMode):
    """Answers convolutions, poolings, norms and pointwise operators on meta tensors.

    Torch's own answers to these are written in Python, and the first one imports sympy,
    torch._dynamo and torch.distributed, which takes longer than everything else that a profile
    does. All other operators are left to torch. Answers are contiguous.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # otherwise torch wraps the method in a function that imports torch._dynamo

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _ANSWERS:
            return _ANSWERS[func](*args, **(kwargs or {}))
        if torch.Tag.pointwise in func.tags:
            return _pointwise(func, [leaf for leaf in args if isinstance(leaf, Tensor)])
        return func(*args, **(kwargs or {}))


def _convolution(
    x: Tensor, weight: Tensor, bias: Any, stride: _Sides, padding: _Sides, dilation: _Sides, *_: Any
) -> Tensor:
    places = _places(x, weight.shape[2:], stride, padding, dilation)
    return x.new_empty(len(x), len(weight), *places)


def _max_pool(
    x: Tensor, kernel: _Sides, stride: _Sides, padding: _Sides = (0, 0), dilation: _Sides = (1, 1)
) -> tuple[Tensor, Tensor]:
    shape = *x.shape[:2], *_places(x, kernel, stride, padding, dilation)
    return x.new_empty(shape), x.new_empty(shape, dtype=torch.int64)


def _places(
    x: Tensor, kernel: _Sides, stride: _Sides, padding: _Sides, dilation: _Sides
) -> list[int]:
    sides = zip(x.shape[2:], kernel, stride, padding, dilation, strict=True)
    return [(side + 2 * p - d * (k - 1) - 1) // s + 1 for side, k, s, p, d in sides]


def _layer_norm(x: Tensor, shape: Sequence[int], *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    statistics = *x.shape[: x.dim() - len(shape)], *[1] * len(shape)
    return x.new_empty(x.shape), x.new_empty(statistics), x.new_empty(statistics)


def _group_norm(
    x: Tensor, weight: Any, bias: Any, batch: int, channels: int, pixels: int, groups: int, *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(batch, groups), x.new_empty(batch, groups)


def _arange(end: int, *, device: Any = None, **_: Any) -> Tensor:
    return torch.empty(end, dtype=torch.int64, device=device)


_ANSWERS: dict[Any, Callable[..., Any]] = {
    _ATEN.arange.default: _arange,
    _ATEN.convolution.default: _convolution,
    _ATEN.max_pool2d_with_indices.default: _max_pool,
    _ATEN.native_layer_norm.default: _layer_norm,
    _ATEN.native_group_norm.default: _group_norm,
}


def _pointwise(func: Any, operands: list[Tensor]) -> Tensor:
    if func._schema.is_mutable:  # in place
        return operands[0]
    dtype = reduce(torch.promote_types, (operand.dtype for operand in operands))
    if func is _ATEN.eq.Scalar:
        dtype = torch.bool
    shape = torch.broadcast_tensors(*operands)[0].shape  # torch.broadcast_shapes imports sympy
    return operands[0].new_empty(shape, dtype=dtype)
