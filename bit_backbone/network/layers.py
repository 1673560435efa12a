"""The layers between BiT's convolutions: GroupNorm + activation, DropPath."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bit_backbone import kernels
from bit_backbone.config import BitConfig

GROUP_NORM_EPS = 1e-5


def check_images(images: Tensor, num_channels: int, smallest: int) -> Tensor:
    """Returns ``images`` if a network can process them.

    Args:
        images: The images to check.
        num_channels: Number of channels of the network's images.
        smallest: Smallest height and width, in pixels.

    Raises:
        ValueError: The images are not [N, num_channels, H, W], not floating point, or too small.
    """
    if not isinstance(images, Tensor):
        raise ValueError(f"images must be a torch tensor [N, {num_channels}, H, W]")
    if images.ndim != 4 or images.shape[1] != num_channels:
        raise ValueError(
            f"images must be [N, {num_channels}, H, W], got {list(images.shape)}; BitConfig's "
            "num_channels sets the channels"
        )
    if not images.is_floating_point():
        raise ValueError(
            f"images must be floating point, got {images.dtype}; BiT expects "
            "(pixels / 255 - 0.5) / 0.5"
        )
    if images.shape[2] < smallest or images.shape[3] < smallest:
        raise ValueError(
            f"images must be at least {smallest} pixels high and wide, got {list(images.shape)}; "
            "only global_padding None and 'same' take smaller ones, down to 1 x 1"
        )
    return images


def activation(name: str) -> nn.Module:
    """Returns the activation that BitConfig calls ``name``, in place if possible."""
    if name == "gelu":
        return nn.GELU()
    if name == "gelu_new":
        return nn.GELU(approximate="tanh")
    return {"relu": nn.ReLU, "selu": nn.SELU}[name](inplace=True)


@kernels.returns_new_memory
class GroupNormAct(nn.GroupNorm):
    """GroupNorm followed by an activation.

    It is a subclass of nn.GroupNorm, so that solvers with separate settings for norms (detectron2's
    WEIGHT_DECAY_NORM) find it.

    Args:
        num_groups: Number of groups.
        num_channels: Channels of the input.
        act: "relu", "gelu", "selu", "gelu_new", or None for no activation.
    """

    def __init__(self, num_groups: int, num_channels: int, act: str | None = "relu") -> None:
        super().__init__(num_groups, num_channels, eps=GROUP_NORM_EPS)
        self.act = nn.Identity() if act is None else activation(act)

    @kernels.fused_where_faster
    def forward(self, x: Tensor) -> Tensor:
        """Normalises and activates [N, C, H, W]."""
        # F.group_norm rejects groups of a single value (a 1x1 map, one channel a group).
        x = torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)
        return self.act(x)


@kernels.returns_new_memory
class DropPath(nn.Module):
    """Stochastic depth (arXiv 1603.09382): drops the branch of whole samples in training.

    Args:
        rate: Probability of a drop, in [0, 1).
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Sets dropped samples of [N, C, H, W] to 0, and divides the others by 1 - rate."""
        if not self.training:
            return x
        keep = 1.0 - self.rate
        return x * x.new_empty([x.shape[0], 1, 1, 1]).bernoulli_(keep).div_(keep)

    def extra_repr(self) -> str:
        """Shows the rate when printed."""
        return f"rate={self.rate:g}"


def drop_path(rate: float) -> nn.Module:
    """Returns stochastic depth, or the identity at a rate of 0."""
    return DropPath(rate) if rate > 0 else nn.Identity()


def post_norm(config: BitConfig, channels: int, act: bool = True) -> nn.Module:
    """Returns the norm after a convolution of stem or shortcut: none in pre-activation nets."""
    preactivation = config.layer_type == "preactivation"
    return nn.Identity() if preactivation else group_norm(config, channels, act)


def group_norm(config: BitConfig, channels: int, act: bool = True) -> GroupNormAct:
    """Returns a GroupNorm with the groups and, if ``act``, the activation of a configuration."""
    return GroupNormAct(config.num_groups, channels, config.hidden_act if act else None)
