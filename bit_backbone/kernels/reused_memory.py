"""Reuses memory that nothing holds any more.

The system clears the pages of fresh memory, which for filters takes longer than standardizing them.
Only the memory is kept here, not its content.
"""

from __future__ import annotations

import sys
import threading

import torch
from torch import Tensor

MOST_BYTES = 64 << 20  # kept per thread; the filters of R50x1 have different sizes, 32 MB in all


class _Kept(threading.local):
    """A thread's tensors by number of bytes, each with the number of its holders when free."""

    def __init__(self) -> None:
        self.tensors: dict[int, tuple[Tensor, int]] = {}


_kept = _Kept()


def empty_like(tensor: Tensor) -> Tensor:
    """Does what ``torch.empty_like`` does, in reused memory if possible.

    Memory is reused only if no other tensor, view or array shares it any more.

    Args:
        tensor: Dense, on the CPU.
    """
    size = tensor.nbytes
    memory, free = _kept.tensors.get(size, (None, 0))
    if memory is None or _num_holders(memory) > free:
        with torch.inference_mode(False):  # it outlives an inference_mode block
            memory = torch.empty(size, dtype=torch.uint8, device="cpu")
        if size not in _kept.tensors and sum(_kept.tensors) + size > MOST_BYTES:
            return _as(memory, tensor)
        _kept.tensors[size] = memory, _num_holders(memory)
    return _as(memory, tensor)


def _as(memory: Tensor, like: Tensor) -> Tensor:
    return memory.view(like.dtype).as_strided(like.shape, like.stride())


def _num_holders(tensor: Tensor) -> int:
    """Counts the holders of a tensor's storage: tensors, views, and Python's storage objects.

    Arrays of NumPy and DLPack hold a tensor.
    """
    storage = tensor.untyped_storage()
    return int(torch._C._storage_Use_Count(storage._cdata)) + sys.getrefcount(storage)
