"""The network as the paper has it: convolutions, norms, residual units, stages."""

from bit_backbone.network.image_channels import GainStdConv2d, adapt_rgb_filters
from bit_backbone.network.layers import DropPath, GroupNormAct
from bit_backbone.network.resnetv2 import (
    BitNetwork,
    BottleneckUnit,
    PreActUnit,
    Projection,
    Stage,
    Stem,
    Unit,
)
from bit_backbone.network.std_conv import StdConv2d, standardize

__all__ = [
    "BitNetwork",
    "BottleneckUnit",
    "DropPath",
    "GainStdConv2d",
    "GroupNormAct",
    "PreActUnit",
    "Projection",
    "Stage",
    "StdConv2d",
    "Stem",
    "Unit",
    "adapt_rgb_filters",
    "standardize",
]
