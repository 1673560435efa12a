"""Makes the C allocator keep memory for reuse instead of returning it to the system."""

from __future__ import annotations

import ctypes
import functools
import platform

__all__ = ["keep_pages"]

# Parameters of glibc's mallopt(3), from its malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4


@functools.cache
def keep_pages() -> bool:
    """Makes the process keep its freed memory; returns whether the C library supports this.

    glibc returns every freed block of at least 32 MB to the system. When it gets such memory again,
    the kernel clears each page at its first use. Feature maps of detection are that large, and
    clearing can take longer than the layer that writes them. After this call, blocks of any size
    come from the heap (``M_MMAP_MAX`` 0), and the heap does not shrink (``M_TRIM_THRESHOLD`` -1).

    The change affects the whole process, not only PyTorch's tensors on the CPU, until it ends: its
    resident memory stays at its peak. Other C libraries (musl, macOS, Windows) are not changed. A
    preloaded allocator (jemalloc, tcmalloc) has its own settings, and this has no effect on it.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, -1))
