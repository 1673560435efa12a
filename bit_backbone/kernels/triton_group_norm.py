"""GroupNorm + activation in Triton: statistics in chunks, so that one image fills a GPU.

A map [N, C, H, W] is read by its strides as [N, C, P] with P = H * W positions. Contiguous
(adjacent positions) and channels-last (adjacent channels) maps use the same kernels. PyTorch's own
GroupNorm gives each (image, group) to one thread block: 32 blocks for one image, on chips that hold
hundreds. Here every map is cut into as many chunks of positions as the chip needs:

    forward   1. mean and squared deviations of each (image, channel, chunk)
              2. combined, chunk by chunk and channel by channel, into those of each (image, group)
              3. normalised, scaled, shifted and activated
    backward  1. sums of the gradient, by itself and times the normalised input, like 1. above
              2. combined like 2. above
              3. the gradient of the input

Moments are combined after Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for
computing sample variances" (1979). It avoids differences of large sums, which would cancel if the
mean is large. All arithmetic is float32. Without atomics, results are reproducible.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from bit_backbone.kernels.triton_kernels import (
    channel_moments,
    channel_sums,
    group_moments,
    group_sums,
    input_gradient,
    normalize,
)

TILE = 4096  # elements of a tile: 16 for each of 256 threads
CHANNELS_OF_TILE = 64  # channels-last: at least 128 bytes per position in half precision
PROGRAMS = 1024  # enough to keep all multiprocessors of an A100 or H100 (108, 132) busy
WARPS = 8


class _Plan(NamedTuple):
    """How the kernels cut up a map of one shape and layout."""

    images: int
    channels: int
    positions: int
    strides: tuple[int, int]  # of a channel and of a position
    block: dict[str, int]
    chunk: int  # positions

    @property
    def chunks(self) -> int:
        return triton.cdiv(self.positions, self.chunk)

    @property
    def chunk_grid(self) -> tuple[int, int, int]:
        return self.chunks, triton.cdiv(self.channels, self.block["BLOCK_C"]), self.images

    @property
    def tile_grid(self) -> tuple[int, int, int]:
        return triton.cdiv(self.positions, self.block["BLOCK_P"]), *self.chunk_grid[1:]

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        return self.channels, self.positions, *self.strides


def _plan(x: Tensor) -> _Plan:
    """Plans for ``x``, [N, C, H, W], contiguous or channels-last."""
    images, channels, height, width = x.shape
    positions = height * width
    if x.is_contiguous():
        strides = positions, 1
        block_p = min(triton.next_power_of_2(positions), TILE)
        block_c = min(triton.next_power_of_2(channels), TILE // block_p)
    else:
        strides = 1, channels
        block_c = min(triton.next_power_of_2(channels), CHANNELS_OF_TILE)
        block_p = min(triton.next_power_of_2(positions), TILE // block_c)
    tiles = triton.cdiv(positions, block_p)
    wanted = triton.cdiv(PROGRAMS, images * triton.cdiv(channels, block_c))
    chunk = triton.cdiv(tiles, min(wanted, tiles)) * block_p
    block = {"BLOCK_C": block_c, "BLOCK_P": block_p, "num_warps": WARPS}
    return _Plan(images, channels, positions, strides, block, chunk)


def _partials(plan: _Plan, like: Tensor) -> tuple[Tensor, Tensor]:
    shape = (2, plan.images, plan.channels, plan.chunks)
    first, second = torch.empty(shape, dtype=torch.float32, device=like.device)
    return first, second


def _block(parts: int) -> int:
    return min(triton.next_power_of_2(parts), 1024)


def forward(
    x: Tensor, num_groups: int, weight: Tensor, bias: Tensor, eps: float, act: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the activated map, and mean and 1 / standard deviation of each group, [N, groups].

    ``x`` is contiguous or channels-last, and so is the map; the statistics are float32.
    """
    mean = torch.empty((x.shape[0], num_groups), dtype=torch.float32, device=x.device)
    rstd = torch.empty_like(mean)
    if x.numel() == 0:
        return torch.empty_like(x), mean.zero_(), rstd.zero_()
    plan, group_channels = _plan(x), x.shape[1] // num_groups
    means, deviations = _partials(plan, x)
    channel_moments[plan.chunk_grid](x, means, deviations, *plan.sizes, plan.chunk, **plan.block)
    group_moments[(plan.images * num_groups,)](
        *(means, deviations, mean, rstd, plan.positions, plan.chunk, plan.chunks),
        *(group_channels, float(group_channels * plan.positions), eps),
        BLOCK=_block(group_channels * plan.chunks),
    )
    return _normalized(x, mean, rstd, weight, bias, eps, act), mean, rstd


def _normalized(
    x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor, bias: Tensor, eps: float, act: str
) -> Tensor:
    """Returns the activated map from known statistics and the arguments of ``forward``."""
    y = torch.empty_like(x)
    if x.numel() == 0:
        return y
    plan = _plan(x)
    normalize[plan.tile_grid](
        *(x, y, mean, rstd, weight, bias, *plan.sizes, x.shape[1] // mean.shape[1]),
        ACT=act,
        **plan.block,
    )
    return y


def backward(
    gradient: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor, bias: Tensor, act: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the gradients of input, weight and bias, given that of the activated map.

    ``gradient`` has the memory format of ``x``.
    """
    if x.numel() == 0:
        return torch.empty_like(x), torch.zeros_like(weight), torch.zeros_like(bias)
    plan, groups = _plan(x), mean.shape[1]
    group_channels = x.shape[1] // groups
    products, sums = _partials(plan, x)
    channel_sums[plan.chunk_grid](
        *(x, gradient, mean, rstd, weight, bias, products, sums),
        *(*plan.sizes, group_channels, plan.chunk),
        ACT=act,
        **plan.block,
    )
    of_products, of_sums = torch.empty_like(mean), torch.empty_like(mean)
    group_sums[(plan.images * groups,)](
        *(products, sums, weight, of_products, of_sums),
        *(plan.chunks, groups, group_channels, float(group_channels * plan.positions)),
        BLOCK=_block(group_channels * plan.chunks),
    )
    out = torch.empty_like(x)
    input_gradient[plan.tile_grid](
        *(x, gradient, out, mean, rstd, weight, bias, of_products, of_sums),
        *(*plan.sizes, group_channels),
        ACT=act,
        **plan.block,
    )
    return out, products.sum((0, 2)).to(weight.dtype), sums.sum((0, 2)).to(bias.dtype)
