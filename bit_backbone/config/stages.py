"""StageSpec: the widths, strides and dilations of one stage, and how they follow from a BitConfig.

They are derived here and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bit_backbone.config import BitConfig

STEM_STRIDE = 4
BOTTLENECK_RATIO = 4
CHANNEL_MULTIPLE = 8


@dataclass(frozen=True)
class StageSpec:
    """One residual stage, as the network builds it and as hosts are told about it.

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


def derive_stages(config: BitConfig) -> tuple[StageSpec, ...]:
    """Returns the residual stages of a network, in order."""
    specs = []
    channels, total_stride, dilation = config.stem_channels, STEM_STRIDE, 1
    rates = iter(_linear_rates(config.drop_path_rate, sum(config.depths)))
    for index, (size, depth) in enumerate(zip(config.hidden_sizes, config.depths, strict=True), 1):
        stride = 1 if index == 1 else 2
        first_dilation = dilation
        if total_stride >= config.output_stride:
            dilation, stride = dilation * stride, 1
        total_stride *= stride
        width = rounded_width(size * config.width_factor)
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


def rounded_width(value: float) -> int:
    """Rounds a width to a multiple of 8, never down by more than a tenth."""
    rounded = int(value + CHANNEL_MULTIPLE / 2) // CHANNEL_MULTIPLE * CHANNEL_MULTIPLE
    rounded = max(rounded, CHANNEL_MULTIPLE)
    return rounded if rounded >= 0.9 * value else rounded + CHANNEL_MULTIPLE


def _linear_rates(last: float, count: int) -> list[float]:
    return [last * i / max(count - 1, 1) for i in range(count)]
