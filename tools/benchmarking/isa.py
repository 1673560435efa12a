"""Plays older processors: limits the vector instructions that libraries use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Isa:
    """A set of vector instructions.

    Attributes:
        flag: The feature in /proc/cpuinfo without which a processor cannot play it.
        aten: PyTorch's own kernels of this set, as ATEN_CPU_CAPABILITY calls them.
        mkl: MKL's, as MKL_ENABLE_INSTRUCTIONS calls them.
        types: What it multiplies in hardware, besides float32.
    """

    flag: str
    aten: str
    mkl: str
    types: tuple[str, ...] = ()

    def environment(self, name: str) -> Mapping[str, str]:
        """Returns the variables that limit oneDNN (also OpenVINO's), our kernels, ATen and MKL."""
        return {
            "ONEDNN_MAX_CPU_ISA": name,
            "ATEN_CPU_CAPABILITY": self.aten,
            "MKL_ENABLE_INSTRUCTIONS": self.mkl,
        }


ISAS = {  # by oneDNN's names, the smallest first
    "AVX2": Isa("avx2", "avx2", "AVX2"),
    "AVX512_CORE": Isa("avx512bw", "avx512", "AVX512"),
    "AVX512_CORE_VNNI": Isa("avx512_vnni", "avx512", "AVX512", ("int8",)),
    "AVX512_CORE_BF16": Isa("avx512_bf16", "avx512", "AVX512", ("int8", "bf16")),
    "AVX512_CORE_AMX": Isa("amx_bf16", "avx512", "AVX512", ("int8", "bf16")),
}
UNLIMITED = ("onnxruntime",)  # MLAS asks the processor and has no such setting


def playable() -> list[str]:
    """Returns the sets that this machine has, the smallest first."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    flags = next((set(line.split()) for line in lines if line.startswith("flags")), set())
    return [name for name, isa in ISAS.items() if isa.flag in flags]


def multiplies(name: str | None, kind: str) -> bool:
    """Whether "bf16" or "int8" is in hardware.

    Args:
        name: Of the set; None for the machine's largest.
        kind: The type.
    """
    own = playable()
    return kind in ISAS[name or own[-1]].types if name or own else False


def is_limited(contender: str) -> bool:
    """Whether a contender obeys the limit."""
    return not contender.removeprefix("timm-").startswith(UNLIMITED)
