"""Builds networks without allocating weights, which a checkpoint then fills in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_DRAWS = frozenset({Tensor.normal_, Tensor.uniform_})


class _NoDraws(TorchFunctionMode):
    """Skips filling tensors with random numbers.

    On the meta device there is nothing to fill, but torch would import its compiler for it: this
    takes seconds, and more memory than R50x1.
    """

    def __torch_function__(
        self, func: Callable, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return args[0] if func in _DRAWS else func(*args, **(kwargs or {}))


@contextmanager
def init_empty_weights(when: bool = True) -> Iterator[None]:
    """Builds modules on the meta device: their tensors have shapes but no memory.

    Args:
        when: If False, modules are built as usual.
    """
    if not when:
        yield
        return
    with torch.device("meta"), _NoDraws():
        yield
