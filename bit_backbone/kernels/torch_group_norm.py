"""GroupNorm + activation with PyTorch's own operators, as ``triton_group_norm`` computes it."""

from __future__ import annotations

import torch
from torch import Tensor

from bit_backbone.kernels.activations import activate, gradient_before


def forward(
    x: Tensor, num_groups: int, weight: Tensor, bias: Tensor, eps: float, act: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the activated map, and mean and 1 / standard deviation of each group, [N, groups]."""
    images, channels, height, width = x.shape
    y, mean, rstd = torch.native_group_norm(
        x, weight, bias, images, channels, height * width, num_groups, eps
    )
    return activate(y, act), mean, rstd


def backward(
    gradient: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor, bias: Tensor, act: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the gradients of input, weight and bias, given that of the activated map."""
    images, channels, height, width = x.shape
    sizes = images, channels, height * width, mean.shape[1]
    if act != "none":
        scale = (rstd.unsqueeze(-1) * weight.view(sizes[3], -1)).flatten(1)
        shift = bias - (mean.unsqueeze(-1) * scale.view(*mean.shape, -1)).flatten(1)
        z = torch.mul(x, scale[..., None, None]).add_(shift[..., None, None])
        # Under autocast on a CPU, the map has fewer bits than the parameters.
        gradient = gradient_before(gradient, z.to(x.dtype), act)
    return torch.ops.aten.native_group_norm_backward(
        gradient, x, mean, rstd, weight, *sizes, [True, True, True]
    )
