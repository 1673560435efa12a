"""Fast implementations of the network's operations; README.md describes them."""

from bit_backbone.kernels.activations import activation_name
from bit_backbone.kernels.conv import conv2d
from bit_backbone.kernels.group_norm import (
    fused_where_faster,
    group_norm_act,
    is_faster_in_triton,
    kernel_policy,
)
from bit_backbone.kernels.in_place_norms import norms_overwrite
from bit_backbone.kernels.max_pool import max_pool
from bit_backbone.kernels.recompute import recomputable
from bit_backbone.kernels.residual import in_place_where_unseen, returns_new_memory
from bit_backbone.kernels.standardize import native_where_possible

__all__ = [
    "activation_name",
    "conv2d",
    "fused_where_faster",
    "group_norm_act",
    "in_place_where_unseen",
    "is_faster_in_triton",
    "kernel_policy",
    "max_pool",
    "native_where_possible",
    "norms_overwrite",
    "recomputable",
    "returns_new_memory",
]
