"""Memory that the C allocator keeps for reuse instead of returning it to the system."""

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
    """Makes the process keep the memory that it frees; returns whether the C library can.

    glibc gives every freed block of 32 MB and more back to the system, and gets it again as pages
    that the kernel has to clear at their first use. Feature maps of detection are that large, and
    clearing can take longer than the layer that writes them. Afterwards blocks of any size come
    from the heap (``M_MMAP_MAX`` 0), and the heap does not shrink (``M_TRIM_THRESHOLD`` -1).

    This holds for the whole process, PyTorch's tensors on the CPU and everything else, until it
    ends: its resident memory stays at its peak. Other C libraries (musl, macOS, Windows) are left
    as they are. Where another allocator is preloaded (jemalloc, tcmalloc), it has settings of its
    own, and this changes nothing.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, -1))
