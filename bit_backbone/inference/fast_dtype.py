"""The type that a processor or GPU multiplies fastest without losing float32's range."""

from __future__ import annotations

import functools
import platform
from pathlib import Path

import torch

__all__ = ["fast_dtype"]

# As /proc/cpuinfo names them, on x86 and on ARM. oneDNN emulates bfloat16 on other processors.
_BFLOAT16_FLAGS = frozenset(("avx512_bf16", "amx_bf16", "bf16"))


def fast_dtype(device: torch.device | str) -> torch.dtype:
    """Returns bfloat16 where a device multiplies it in hardware, and float32 elsewhere.

    Args:
        device: A CPU (with AVX512-BF16, AMX or ARM's BF16), or a CUDA GPU (from Ampere on).
    """
    kind = torch.device(device).type
    if kind == "cuda":
        has = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has = kind == "cpu" and not _BFLOAT16_FLAGS.isdisjoint(_cpu_flags())
    return torch.bfloat16 if has else torch.float32


@functools.cache
def _cpu_flags() -> frozenset[str]:
    if platform.system() != "Linux":
        return frozenset()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    flags = [line for line in lines if line.startswith(("flags", "Features"))]
    return frozenset(flags[0].partition(":")[2].split()) if flags else frozenset()
