"""Builds the CPU kernels in C++ on first use, and keeps them in torch's cache of extensions.

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

FOLDER = Path(__file__).parent
SOURCES = ("native.cpp", "convolution.cpp")
HEADERS = ("native.h", "moments.h", "tiles.h")
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fPIC", "-fopenmp", "-fno-math-errno")
DISABLE = "BIT_BACKBONE_NATIVE"  # 0 means PyTorch's operators everywhere
# Flags for the instructions that oneDNN may not use, by the values of ONEDNN_MAX_CPU_ISA.
_NO_AVX512 = ("-mno-avx512f",)
_NO_INT8 = ("-mno-avx512vnni", "-mno-avxvnni")
LIMITS = {
    "SSE41": (*_NO_AVX512, "-mno-avx"),
    "AVX": (*_NO_AVX512, "-mno-avx2"),
    "AVX2": (*_NO_AVX512, "-mno-avxvnni"),
    "AVX2_VNNI": _NO_AVX512,
    "AVX2_VNNI_2": _NO_AVX512,
    "AVX512_CORE": (*_NO_INT8, "-mno-avx512bf16"),
    "AVX512_CORE_VNNI": ("-mno-avx512bf16",),
}

_LOGGER = logging.getLogger(__name__)


def status() -> str:
    """Returns which kernels run on CPUs, and why."""
    try:
        path = _build()
        _load(path)
        return f"native, {path}"
    except _UnavailableError as error:
        return f"PyTorch's, because {error}"


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
    texts = [Path(FOLDER, name).read_text(encoding="utf-8") for name in (*SOURCES, *HEADERS)]
    parts = (*texts, *_flags(), *compiler, version, processor)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _flags() -> tuple[str, ...]:
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()
    is_x86 = platform.machine() in ("x86_64", "AMD64")
    return (*FLAGS, *(LIMITS.get(limit, ()) if is_x86 else ()))


def _compile(compiler: list[str], target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        linked = Path(folder, "kernels.so")
        run: dict[str, Any] = {"check": True, "capture_output": True, "text": True, "timeout": 300}
        sources = [str(FOLDER / name) for name in SOURCES]
        subprocess.run([*compiler, *_flags(), "-c", *sources], cwd=folder, **run)
        compiled = [str(Path(folder, name).with_suffix(".o")) for name in SOURCES]
        # Linked without -fopenmp: the symbols come from the runtime that torch has loaded.
        subprocess.run([*compiler, "-shared", *compiled, "-o", str(linked)], **run)
        _load(linked)  # an error here leaves no broken file in the cache
        os.replace(linked, target)


def _load(path: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise _UnavailableError(f"{path} cannot be loaded: {error}") from error
