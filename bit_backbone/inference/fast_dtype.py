"""The types that a processor or GPU multiplies fast."""

from __future__ import annotations

import functools
import os
import platform
from pathlib import Path

import torch

__all__ = ["fast_dtype", "has_int8"]

# Names in /proc/cpuinfo, on x86 and on ARM. oneDNN emulates bfloat16 on other processors.
_BFLOAT16_FLAGS = frozenset(("avx512_bf16", "amx_bf16", "bf16"))
_INT8_FLAGS = frozenset(("avx512_vnni", "avx_vnni", "amx_int8"))
# Values of ONEDNN_MAX_CPU_ISA with which oneDNN does not use these features.
_WITHOUT_INT8 = frozenset(("SSE41", "AVX", "AVX2", "AVX512_CORE"))
_WITHOUT_BFLOAT16 = _WITHOUT_INT8 | {"AVX2_VNNI", "AVX512_CORE_VNNI"}


def fast_dtype(device: torch.device | str) -> torch.dtype:
    """Returns bfloat16 where a device multiplies it in hardware, and float32 elsewhere.

    The environment variable ONEDNN_MAX_CPU_ISA can disable it on a CPU.

    Args:
        device: A CPU (with AVX512-BF16, AMX or ARM's BF16), or a CUDA GPU (from Ampere on).
    """
    kind = torch.device(device).type
    if kind == "cuda":
        has = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has = kind == "cpu" and _has(_BFLOAT16_FLAGS, _WITHOUT_BFLOAT16)
    return torch.bfloat16 if has else torch.float32


def has_int8() -> bool:
    """Whether the CPU has a dot product of 8-bit integers (VNNI or AMX), and oneDNN uses it."""
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()
    flags = {"avx_vnni"} if limit == "AVX2_VNNI" else _INT8_FLAGS  # the limit excludes AVX512-VNNI
    return _has(frozenset(flags), _WITHOUT_INT8)


def _has(flags: frozenset[str], limits: frozenset[str]) -> bool:
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()
    return limit not in limits and not flags.isdisjoint(_cpu_flags())


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
