"""CPU kernels in C++: built on first use, and kept in torch's cache of extensions.

Installing the package needs no compiler, and importing it builds nothing. Without a compiler,
callers use PyTorch's operators; ``status`` reports which of the two are used.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bit_backbone.kernels.gate import has_values, is_eager
from bit_backbone.kernels.huge_pages import in_huge_pages

SOURCE = Path(__file__).with_name("native.cpp")
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fPIC", "-fopenmp", "-fno-math-errno")
DISABLE = "BIT_BACKBONE_NATIVE"  # 0 means PyTorch's operators everywhere
DTYPES = (torch.float32, torch.bfloat16)
ACTIVATIONS = ("none", "relu")

_LOGGER = logging.getLogger(__name__)


def status() -> str:
    """Returns which kernels run on CPUs, and why."""
    try:
        path = _build()
        _load(path)
        return f"native, {path}"
    except _UnavailableError as error:
        return f"PyTorch's, because {error}"


def can_run(x: Tensor, *others: Tensor) -> bool:
    """Whether the kernels can run on dense CPU tensors: checks mode, types, and that they exist."""
    return (
        is_eager(x, *others)
        and has_values(x, *others)
        and x.device.type == "cpu"
        and x.dtype in DTYPES
        and x.numel() > 0
        and library() is not None
    )


def group_norm_act(
    x: Tensor,
    num_groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    act: str,
    out: Tensor | None = None,
) -> Tensor:
    """GroupNorm and activation of a dense [N, C, H, W] that ``can_run`` accepts, without autograd.

    Args:
        x: Contiguous or channels-last, float32 or bfloat16.
        num_groups: Number of groups.
        weight: Scale, [C].
        bias: Shift, [C].
        eps: Added to the variance.
        act: One of ``ACTIVATIONS``.
        out: Tensor for the result, in the memory format of ``x``; may be ``x``.
    """
    out = in_huge_pages(torch.empty_like(x)) if out is None else out
    kind = _bit(out, 4) | (8 if act == "relu" else 0)
    return _group_norm(kind, x, num_groups, weight, bias, None, eps, out)


def group_norm_relu_uint8(
    x: Tensor, num_groups: int, weight: Tensor, bias: Tensor, steps: Tensor, eps: float
) -> Tensor:
    """GroupNorm, ReLU and quantization of a dense [N, C, H, W] that ``can_run`` accepts.

    Args:
        x: Contiguous or channels-last, float32 or bfloat16.
        num_groups: Number of groups.
        weight: Scale, [C].
        bias: Shift, [C].
        steps: The value of one level of the result, float32 [C].
        eps: Added to the variance.

    Returns:
        uint8 levels in the memory format of ``x``, clipped at 255.
    """
    out = torch.empty_like(x, dtype=torch.uint8)
    return _group_norm(16, x, num_groups, weight, bias, steps, eps, out)


def _group_norm(
    kind: int,
    x: Tensor,
    num_groups: int,
    weight: Tensor,
    bias: Tensor,
    steps: Tensor | None,
    eps: float,
    out: Tensor,
) -> Tensor:
    channels_last = not x.is_contiguous()
    images, channels, height, width = x.shape
    threads = torch.get_num_threads()
    weight, bias = weight.float().contiguous(), bias.float().contiguous()
    # Doubles come first, then floats: see native.cpp.
    work = x.new_empty(threads * channels * 5, dtype=torch.float64) if channels_last else out
    sizes = images, height * width, channels, num_groups
    _loaded().bit_group_norm(
        *(kind | channels_last | _bit(x, 2), x.data_ptr(), out.data_ptr(), *sizes),
        *(weight.data_ptr(), bias.data_ptr(), None if steps is None else steps.data_ptr()),
        *(eps, threads, work.data_ptr()),
    )
    return out


def standardize(
    weight: Tensor, eps: float, out: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Gives each filter of a dense weight that ``can_run`` accepts mean 0 and variance 1.

    Args:
        weight: [out, ...], in any dense layout that keeps filters together.
        eps: Added to the variance.
        out: Tensor for the result, in the layout of ``weight``; None for new memory.

    Returns:
        The filters, and their means and 1 / standard deviations, [out], float32.
    """
    out, filters = torch.empty_like(weight) if out is None else out, len(weight)
    # Programs may change the default type and device of new tensors.
    means, rstds = weight.new_empty(2, filters, dtype=torch.float32)
    _loaded().bit_standardize(
        *(_bit(weight, 2), weight.data_ptr(), out.data_ptr(), filters, weight.numel() // filters),
        *(eps, torch.get_num_threads(), means.data_ptr(), rstds.data_ptr()),
    )
    return out, means, rstds


def _bit(tensor: Tensor, bit: int) -> int:
    return bit if tensor.dtype == torch.bfloat16 else 0


class _UnavailableError(Exception):
    """The kernels cannot be built or loaded here."""


@functools.cache
def library() -> ctypes.CDLL | None:
    """Returns the kernels, and builds them if they are not cached; None if that is impossible."""
    try:
        return _load(_build())
    except _UnavailableError as error:
        _LOGGER.info("PyTorch's operators run on the CPU, because %s", error)
        return None


def _loaded() -> ctypes.CDLL:
    found = library()
    assert found is not None  # can_run has checked it
    return found


def _build() -> Path:
    """Returns the path of the shared library for this source, compiler and processor."""
    if os.environ.get(DISABLE) == "0":
        raise _UnavailableError(f"{DISABLE} is 0")
    named = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or ""
    compiler = shlex.split(named)  # as in CXX="ccache g++"
    if platform.system() != "Linux" or not compiler:
        raise _UnavailableError("there is no C++ compiler (c++, g++ or $CXX)")
    try:
        target = _cache() / f"kernels-{_key(compiler)}.so"
        if not target.exists():
            _LOGGER.info("building the CPU kernels once, as %s", target)
            target.parent.mkdir(parents=True, exist_ok=True)
            _compile(compiler, target)
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        raise _UnavailableError(f"they cannot be built: {said.strip()[-500:]}") from error
    return target


def _cache() -> Path:
    """Returns the package's folder in torch's cache of extensions."""
    root = os.environ.get("TORCH_EXTENSIONS_DIR")
    if root is None:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        root = str(Path(home) / "torch_extensions")
    return Path(root) / "bit_backbone"


def _key(compiler: list[str]) -> str:
    """Returns a digest of everything that the binary depends on."""
    asked = [*compiler, "--version"]
    run: dict[str, Any] = {"check": True, "capture_output": True, "text": True, "timeout": 60}
    version = subprocess.run(asked, **run).stdout
    processor = platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    processor += "".join(line for line in lines if line.startswith(("flags", "Features")))
    parts = (SOURCE.read_text(encoding="utf-8"), *FLAGS, *compiler, version, processor)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _compile(compiler: list[str], target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        compiled, linked = Path(folder, "kernels.o"), Path(folder, "kernels.so")
        run: dict[str, Any] = {"check": True, "capture_output": True, "text": True, "timeout": 300}
        subprocess.run([*compiler, *FLAGS, "-c", str(SOURCE), "-o", str(compiled)], **run)
        # Linked without -fopenmp: the symbols come from the runtime that torch has loaded.
        subprocess.run([*compiler, "-shared", str(compiled), "-o", str(linked)], **run)
        _load(linked)  # an error here leaves no broken file in the cache
        os.replace(linked, target)


def _load(path: Path) -> ctypes.CDLL:
    try:
        kernels = ctypes.CDLL(str(path))
    except OSError as error:
        raise _UnavailableError(f"{path} cannot be loaded: {error}") from error
    address, number, size, real = ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_double
    kernels.bit_group_norm.argtypes = [
        *(number, address, address, size, size, size, size, address, address, address),
        *(real, number, address),
    ]
    kernels.bit_standardize.argtypes = [
        *(number, address, address, size, size, real, number, address, address)
    ]
    kernels.bit_group_norm.restype = kernels.bit_standardize.restype = None
    return kernels
