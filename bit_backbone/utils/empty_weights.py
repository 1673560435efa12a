"""Building networks without memory, to be filled from a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_DRAWS = frozenset({Tensor.normal_, Tensor.uniform_})


class _NoDraws(TorchFunctionMode):
    """Leaves tensors as they are where they would be filled with random numbers.

    On the meta device there is nothing to fill, and torch imports its compiler to find that out:
    seconds, and more memory than R50x1 has.
    """

    def __torch_function__(
        self, func: Callable, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return args[0] if func in _DRAWS else func(*args, **(kwargs or {}))


@contextmanager
def init_empty_weights(when: bool = True) -> Iterator[None]:
    """Builds modules on the meta device: their tensors have shapes and no memory.

    Args:
        when: False does nothing, for callers who build either way.
    """
    if not when:
        yield
        return
    with torch.device("meta"), _NoDraws():
        yield
