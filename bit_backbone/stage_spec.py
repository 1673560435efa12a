"""StageSpec: the numbers that BitConfig derives for one stage."""

from dataclasses import dataclass

BOTTLENECK_RATIO = 4


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
