"""Convolutions that normalise their input on the way: y = [y +] conv(relu(norm(x))), in C++.

The normalised map is never in memory, and the moments of the result are taken while it is in the
cache. So a chain of norms and convolutions reads and writes each map only once. It runs on x86 CPUs
with AVX2 or AVX-512, without autograd.
"""

from __future__ import annotations

import ctypes
import functools
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bit_backbone.kernels.huge_pages import in_huge_pages
from bit_backbone.kernels.native_build import library

_BITS = {torch.float32: 1, torch.bfloat16: 2, torch.int8: 4}
_CPU_INFO = Path("/proc/cpuinfo")
NO_NORM = (0, None, None, None, 0.0)


class Norm:
    """A GroupNorm that ReLU follows, as the kernels take it.

    Args:
        norm: The norm.
        steps: The value of one 8-bit level of each channel, float32 [C], for filters in int8.
    """

    def __init__(self, norm: nn.GroupNorm, steps: Tensor | None = None) -> None:
        weight, bias = (each.detach().float().contiguous() for each in (norm.weight, norm.bias))
        self._kept = weight, bias, steps  # the addresses are theirs
        addresses = (None if each is None else each.data_ptr() for each in self._kept)
        self.arguments = (norm.num_groups, *addresses, norm.eps)


class Filters:
    """The filters of a convolution, laid out for the kernels.

    Args:
        conv: The convolution; its weight is [out, in, k, k] in float32, bfloat16 or int8.
        scales: What results are multiplied by, float32 [out], for int8.
    """

    def __init__(self, conv: Any, scales: Tensor | None = None) -> None:
        weight = conv.weight.detach()
        self.out_channels, self._channels, self._kernel = weight.shape[:3]
        self._stride, self._dilation = conv.stride[0], conv.dilation[0]
        self._padding = None if conv.pads_same else conv.padding[0]
        self._kept = pack(weight), scales
        self.bit = 4 if weight.dtype == torch.int8 else 0
        self.addresses = (self._kept[0].data_ptr(), None if scales is None else scales.data_ptr())
        self._latest: tuple[Any, Any] = (None, None)

    def geometry(self, height: int, width: int) -> tuple[Any, int, int]:
        """Returns the sizes of the convolution as the kernel takes them, and its result's size."""
        seen, found = self._latest  # read together: other threads may run this layer too
        if seen != (height, width):
            found = self._compute(height, width)
            self._latest = (height, width), found
        return found

    def _compute(self, height: int, width: int) -> tuple[Any, int, int]:
        extent, stride = (self._kernel - 1) * self._dilation + 1, self._stride
        out, before = [], []
        for size in (height, width):
            if self._padding is None:  # TensorFlow's SAME
                out.append(-(-size // stride))
                before.append(max((out[-1] - 1) * stride + extent - size, 0) // 2)
            else:
                out.append((size + 2 * self._padding - extent) // stride + 1)
                before.append(self._padding)
        numbers = (height, width, self._channels, *out, self.out_channels, self._kernel)
        numbers += (stride, self._dilation, *before)
        return (ctypes.c_long * len(numbers))(*numbers), out[0], out[1]


def can_multiply(dtype: torch.dtype) -> bool:
    """Whether the kernels exist for filters of a type, and are the fastest on this processor."""
    if library() is None or not _kernels().bit_convolution_types() & _BITS.get(dtype, 0):
        return False
    return dtype == torch.float32 or not _has_matrix_unit()


def can_convolve(conv: nn.Conv2d) -> bool:
    """Whether the kernels can compute a convolution with its type, filters and geometry."""
    pairs = conv.kernel_size, conv.stride, conv.padding, conv.dilation
    return (
        can_multiply(conv.weight.dtype)
        and tuple(conv.weight.shape[2:]) == conv.kernel_size
        and all(len(set(pair)) == 1 for pair in pairs)
        and conv.stride[0] in (1, 2)
        and conv.padding_mode == "zeros"
    )


def pack(weight: Tensor) -> Tensor:
    """Lays out [out, in, k, k] as [panels, k * k, chunks, depth, columns, group], with zeros."""
    columns, chunk = _layout(weight.itemsize, weight.shape[1])
    filters, channels, taps = *weight.shape[:2], weight.shape[2] * weight.shape[3]
    panels, chunks, group = -(-filters // columns), -(-channels // chunk), 4 // weight.itemsize
    padded = weight.new_zeros(panels * columns, chunks * chunk, taps)
    padded[:filters, :channels] = weight.flatten(2)
    parts = padded.view(panels, columns, chunks, chunk // group, group, taps)
    ordered = parts.permute(0, 5, 2, 3, 1, 4)
    return in_huge_pages(weight.new_empty(ordered.shape)).copy_(ordered)


def norm_tables(x: Tensor, norm: Norm) -> Tensor:
    """Returns what normalises a dense channels-last [N, C, H, W]: float32 [N, 3, C]."""
    images, channels, height, width = x.shape
    tables = _new_tables(images, channels)
    _kernels().bit_norm_tables(
        *(_maps_bit(x), x.data_ptr(), images, height * width, channels, *norm.arguments),
        *(torch.get_num_threads(), tables.data_ptr()),
    )
    return tables


def norm_conv(
    x: Tensor,
    tables: Tensor,
    filters: Filters,
    following: Norm | None = None,
    total: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Convolves the normalised and activated ``x``, without autograd.

    Args:
        x: Dense channels-last [N, in, H, W], float32 or bfloat16.
        tables: What normalises ``x``, [N, 3, in].
        filters: The filters, in the type of ``x`` or in int8.
        following: The norm of the result, if there is one.
        total: A dense channels-last map to which the result is added in place.

    Returns:
        The result, [N, out, H', W'], and what normalises it: the tables of ``following``, or none.
    """
    images, _, height, width = x.shape
    geometry, out_height, out_width = filters.geometry(height, width)
    kind, y = filters.bit | _maps_bit(x) | 1, total
    if y is None:
        shape = (images, filters.out_channels, out_height, out_width)
        fresh = torch.empty(shape, dtype=x.dtype, device="cpu", memory_format=torch.channels_last)
        kind, y = kind - 1, in_huge_pages(fresh)
    of_next = NO_NORM if following is None else following.arguments
    next_tables = _new_tables(0 if following is None else images, filters.out_channels)
    weight, scales = filters.addresses
    _kernels().bit_convolution(
        *(kind, geometry, x.data_ptr(), tables.data_ptr(), weight, scales, y.data_ptr(), images),
        *(torch.get_num_threads(), *of_next, next_tables.data_ptr() or None),
    )
    return y, next_tables


def _new_tables(images: int, channels: int) -> Tensor:
    return torch.empty(images, 3, channels, dtype=torch.float32, device="cpu")


def _maps_bit(x: Tensor) -> int:
    return 2 if x.dtype == torch.bfloat16 else 0


@functools.cache
def _layout(size: int, channels: int) -> tuple[int, int]:
    """Returns the filters of a tile, and the input channels that lie together."""
    layout = (ctypes.c_long * 2)()
    _kernels().bit_convolution_layout(size, channels, layout)
    return layout[0], layout[1]


@functools.cache
def _has_matrix_unit() -> bool:
    """Whether oneDNN has AMX, with which it multiplies faster than these kernels."""
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()
    if limit in ("", "ALL", "DEFAULT") or "AMX" in limit:
        return _CPU_INFO.exists() and "amx_tile" in _CPU_INFO.read_text(encoding="utf-8")
    return False


@functools.cache
def _kernels() -> ctypes.CDLL:
    kernels = library()
    assert kernels is not None  # can_multiply has checked it
    address, number, size, real = ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_double
    norm = (size, address, address, address, real)
    if kernels.bit_convolution_types():
        kernels.bit_norm_tables.argtypes = [
            *(number, address, size, size, size, *norm, number, address)
        ]
        kernels.bit_convolution.argtypes = [
            *(number, address, address, address, address, address, address, size, number),
            *(*norm, address),
        ]
        kernels.bit_norm_tables.restype = kernels.bit_convolution.restype = None
        kernels.bit_convolution_layout.argtypes = [size, size, address]
        kernels.bit_convolution_layout.restype = None
    return kernels
