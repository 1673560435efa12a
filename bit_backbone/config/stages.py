"""StageSpec: the widths, strides and dilations of one stage, derived here and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

STEM_STRIDE = 4
BOTTLENECK_RATIO = 4
CHANNEL_MULTIPLE = 8


@dataclass(frozen=True)
class StageSpec:
    """One residual stage, as the network builds it and describes it to hosts.

    Attributes:
        name: "stage1" .. "stageN".
        index: 1 .. N, the stage's output index (the stem is 0).
        in_channels: Channels of the stage's input.
        channels: Channels of the stage's output.
        bottleneck_channels: Channels of the 3x3 convolutions.
        depth: Number of residual units.
        stride: Stride of the first unit, 1 or 2.
        total_stride: Input pixels per output pixel, counted from the image.
        first_dilation: Dilation of the first unit's 3x3 convolution.
        dilation: Dilation of every later unit's 3x3 convolution.
        drop_path_rates: Stochastic-depth rate of each unit.
    """

    name: str
    index: int
    in_channels: int
    channels: int
    bottleneck_channels: int
    depth: int
    stride: int
    total_stride: int
    first_dilation: int
    dilation: int
    drop_path_rates: tuple[float, ...]


def derive_stages(
    widths: Sequence[int],
    depths: Sequence[int],
    *,
    stem_channels: int,
    output_stride: int,
    drop_path_rate: float,
) -> tuple[StageSpec, ...]:
    """Returns the residual stages of a network, in order.

    Args:
        widths: Channels of each stage's output.
        depths: Residual units of each stage.
        stem_channels: Channels of the stem.
        output_stride: The largest stride; later stages use dilation instead.
        drop_path_rate: Stochastic depth of the last unit.
    """
    specs = []
    channels, total_stride, dilation = stem_channels, STEM_STRIDE, 1
    rates = iter(_linear_rates(drop_path_rate, sum(depths)))
    for index, (width, depth) in enumerate(zip(widths, depths, strict=True), 1):
        stride = 1 if index == 1 else 2
        first_dilation = dilation
        if total_stride >= output_stride:
            dilation, stride = dilation * stride, 1
        total_stride *= stride
        spec = StageSpec(
            name=f"stage{index}",
            index=index,
            in_channels=channels,
            channels=width,
            bottleneck_channels=rounded_width(width / BOTTLENECK_RATIO),
            depth=depth,
            stride=stride,
            total_stride=total_stride,
            first_dilation=first_dilation,
            dilation=dilation,
            drop_path_rates=tuple(next(rates) for _ in range(depth)),
        )
        specs.append(spec)
        channels = width
    return tuple(specs)


def smallest_input(stages: Sequence[StageSpec], pool: int) -> int:
    """Returns the smallest height and width, in pixels, that leave a pixel without padding.

    Args:
        stages: The stages that the image goes through.
        pool: Size of the stem's pooling; 1 if it is padded.
    """
    size = 1
    for stage in reversed(stages):
        dilations = [stage.first_dilation, *[stage.dilation] * (stage.depth - 1)]
        strides = [stage.stride, *[1] * (stage.depth - 1)]
        for dilation, stride in zip(reversed(dilations), reversed(strides), strict=True):
            size = (size - 1) * stride + 2 * dilation + 1
    return ((size - 1) * 2 + pool - 1) * 2 + 7


def rounded_width(value: float) -> int:
    """Rounds a width to a multiple of 8, never down by more than a tenth."""
    rounded = int(value + CHANNEL_MULTIPLE / 2) // CHANNEL_MULTIPLE * CHANNEL_MULTIPLE
    rounded = max(rounded, CHANNEL_MULTIPLE)
    return rounded if rounded >= 0.9 * value else rounded + CHANNEL_MULTIPLE


def _linear_rates(last: float, count: int) -> list[float]:
    return [last * i / max(count - 1, 1) for i in range(count)]
