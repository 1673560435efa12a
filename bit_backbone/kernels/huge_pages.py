"""Puts large maps in huge pages, on systems that grant them on request (Linux's "madvise").

The system clears each page of fresh memory when it is first written. A map of 68 MB has 17,000
pages of 4 KB, or 34 of 2 MB.
"""

from __future__ import annotations

import ctypes
import functools
import platform
from collections.abc import Callable

from torch import Tensor

PAGE = 2 << 20
SMALLEST = 2 * PAGE  # bytes: a smaller map may hold no whole page
_MADV_HUGEPAGE = 14  # of Linux's sys/mman.h


@functools.cache
def _madvise() -> Callable[[int, int, int], int] | None:
    if platform.system() != "Linux":
        return None
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return madvise


def in_huge_pages(fresh: Tensor) -> Tensor:
    """Requests huge pages for a dense CPU tensor that is not written yet, and returns the tensor.

    The request is only advice: if the system ignores it, the tensor is unchanged.
    """
    if fresh.nbytes >= SMALLEST and (madvise := _madvise()):
        begin = -(-fresh.data_ptr() // PAGE) * PAGE
        end = (fresh.data_ptr() + fresh.nbytes) // PAGE * PAGE
        madvise(begin, end - begin, _MADV_HUGEPAGE)
    return fresh
