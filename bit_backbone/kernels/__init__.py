"""Fused operators of BiT: Triton kernels for GPUs, each with its twin in plain PyTorch."""

from bit_backbone.kernels.activations import activation_name
from bit_backbone.kernels.group_norm import (
    group_norm_act,
    is_faster_in_triton,
    kernel_policy,
)

__all__ = ["activation_name", "group_norm_act", "is_faster_in_triton", "kernel_policy"]
