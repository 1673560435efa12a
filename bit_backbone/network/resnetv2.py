"""The BiT network from image to feature maps: stem, residual units, stages, taps.

ResNetV2 with GroupNorm and weight standardization (arXiv 1912.11370, section 3.1; official code:
google-research/big_transfer, bit_pytorch/models.py).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bit_backbone import kernels
from bit_backbone.config import BitConfig, StageSpec
from bit_backbone.network.image_channels import stem_conv
from bit_backbone.network.layers import activation, check_images, drop_path, group_norm, post_norm
from bit_backbone.network.padding import centre_crop_like
from bit_backbone.network.std_conv import std_conv
from bit_backbone.network.stem_pool import StemPool

torch.fx.wrap("centre_crop_like")
torch.fx.wrap("check_images")


class Stem(nn.Module):
    """7x7 convolution and max-pooling: [N, num_channels, H, W] to [N, C, H/4, W/4]."""

    def __init__(self, config: BitConfig, smallest: int) -> None:
        super().__init__()
        self.num_channels, self.smallest = config.num_channels, smallest
        self.conv = stem_conv(config)
        self.norm = post_norm(config, config.stem_channels)
        self.pool = StemPool(config.stem_pool_padding)

    def forward(self, images: Tensor) -> Tensor:
        """Returns the pooled stem, stride 4."""
        images = check_images(images, self.num_channels, self.smallest)
        return self.pool(self.norm(self.conv(images)))


class Projection(nn.Module):
    """The shortcut of a stage's first unit: 1x1 convolution, and a norm in bottleneck nets."""

    def __init__(self, config: BitConfig, stage: StageSpec) -> None:
        super().__init__()
        self.conv = std_conv(config, stage.in_channels, stage.channels, 1, stride=stage.stride)
        self.norm = post_norm(config, stage.channels, act=False)

    def forward(self, x: Tensor) -> Tensor:
        """Projects [N, Cin, H, W] to [N, Cout, H/stride, W/stride]."""
        return self.norm(self.conv(x))


class Unit(nn.Module):
    """What both kinds of residual unit share: three convolutions and the shortcut.

    Attributes:
        grad_checkpointing: Whether backward computes the unit again from its input.
        activation_recompute: Whether backward computes norms and activations again.
        saved_convolutions: How many of the first convolutions are then saved.
    """

    # Of the class, for units that were pickled before there were such switches.
    grad_checkpointing = activation_recompute = False
    saved_convolutions: int

    def __init__(self, config: BitConfig, stage: StageSpec, index: int) -> None:
        super().__init__()
        first, cmid = index == 0, stage.bottleneck_channels
        self.crops = config.global_padding == "valid"
        self.downsample = Projection(config, stage) if first else None
        self.conv1 = std_conv(config, stage.in_channels if first else stage.channels, cmid, 1)
        # The stride sits on the 3x3 convolution; the original ResNet had it on the first.
        stride, dilation = (stage.stride, stage.first_dilation) if first else (1, stage.dilation)
        self.conv2 = std_conv(config, cmid, cmid, 3, stride=stride, dilation=dilation)
        self.conv3 = std_conv(config, cmid, stage.channels, 1)
        self.drop_path = drop_path(stage.drop_path_rates[index])

    def cropped(self, shortcut: Tensor, branch: Tensor) -> Tensor:
        """Returns the shortcut in the size of the branch, which is smaller without padding."""
        return centre_crop_like(shortcut, branch) if self.crops else shortcut

    @kernels.in_place_where_unseen
    def add(self, branch: Tensor, shortcut: Tensor) -> Tensor:
        """Returns the residual sum of two maps [N, C, H, W]."""
        return branch + shortcut


class PreActUnit(Unit):
    """Pre-activation bottleneck: norm and activation come before each convolution."""

    def __init__(self, config: BitConfig, stage: StageSpec, index: int) -> None:
        super().__init__(config, stage, index)
        self.norm1 = group_norm(config, stage.channels if index else stage.in_channels)
        self.norm2 = group_norm(config, stage.bottleneck_channels)
        self.norm3 = group_norm(config, stage.bottleneck_channels)

    @property
    def saved_convolutions(self) -> int:  # type: ignore[override]
        """All but the last one, whose result goes only into the sum."""
        return 2 if self.downsample is None else 3

    @kernels.norms_overwrite(("conv1", "norm2"), ("conv2", "norm3"))
    @kernels.recomputable
    def forward(self, x: Tensor, activated: Tensor | None = None) -> Tensor:
        """Maps raw residual sums to raw residual sums; ``activated``: norm1(x), if at hand."""
        activated = self.norm1(x) if activated is None else activated
        branch = self.norm3(self.conv2(self.norm2(self.conv1(activated))))
        # A projection is fed the pre-activation; made now, in memory that the branch has freed.
        shortcut = x if self.downsample is None else self.downsample(activated)
        branch = self.drop_path(self.conv3(branch))
        return self.add(branch, self.cropped(shortcut, branch))


class BottleneckUnit(Unit):
    """Post-activation bottleneck (ResNet v1.5), as in the ResNets of ViT hybrids."""

    saved_convolutions = 4  # all: a norm follows each

    def __init__(self, config: BitConfig, stage: StageSpec, index: int) -> None:
        super().__init__(config, stage, index)
        self.norm1 = group_norm(config, stage.bottleneck_channels)
        self.norm2 = group_norm(config, stage.bottleneck_channels)
        self.norm3 = group_norm(config, stage.channels, act=False)
        self.act = activation(config.hidden_act)

    @kernels.norms_overwrite(("conv1", "norm1"), ("conv2", "norm2"), ("conv3", "norm3"))
    @kernels.recomputable
    def forward(self, x: Tensor, activated: Tensor | None = None) -> Tensor:
        """Maps activated features to activated features; ``activated`` is ``x`` here."""
        shortcut = x if self.downsample is None else self.downsample(x)
        branch = self.norm2(self.conv2(self.norm1(self.conv1(x))))
        branch = self.drop_path(self.norm3(self.conv3(branch)))
        return self.act(self.add(branch, self.cropped(shortcut, branch)))


class Stage(nn.Sequential):
    """The residual units of one stage."""

    def __init__(self, config: BitConfig, spec: StageSpec) -> None:
        kind = PreActUnit if config.layer_type == "preactivation" else BottleneckUnit
        super().__init__(*(kind(config, spec, index) for index in range(spec.depth)))

    def forward(self, x: Tensor, activated: Tensor | None = None) -> Tensor:
        """Maps the previous stage's output to this stage's; ``activated``: enter(x), if at hand."""
        # An argument and not another method: hooks and tracers see every stage and unit called.
        for unit in self:
            x = unit(x, activated)
            activated = None
        return x

    def enter(self, x: Tensor) -> Tensor:
        """Applies the first norm and activation, in pre-activation stages."""
        return self[0].norm1(x)  # type: ignore[operator]


class BitNetwork(nn.Module):
    """Stem and stages, as far as needed, with named taps.

    ``stem``, ``stage1`` .. and ``norm`` are direct children in execution order: a state dict, a
    reader and torchvision's IntermediateLayerGetter find them. A module of the user's can take the
    place of any (of a stage, with only raw outputs: it needs no ``enter`` then).

    Args:
        config: The network.
        last: Index of the deepest stage to build; 0 builds only the stem.
        norm: Whether to build the pre-activation norm after it.
    """

    def __init__(self, config: BitConfig, *, last: int, norm: bool) -> None:
        super().__init__()
        self.config = config
        self.stem = Stem(config, config.smallest_image(last))
        for spec in config.stages[:last]:
            setattr(self, spec.name, Stage(config, spec))
        self.norm = group_norm(config, config.channels[last]) if norm else None

    def __setattr__(self, name: str, value: Any) -> None:
        # Marks, for the loops below, whatever serves as a stage, a user's module too.
        if isinstance(value, nn.Module) and name.startswith("stage"):
            value.is_stage = True  # type: ignore[assignment]
        super().__setattr__(name, value)

    def raw_taps(self, images: Tensor, names: list[str]) -> dict[str, Tensor]:
        """Returns the named stages' residual sums, shallow to deep."""
        x = self.stem(images)
        features = {"stem": x} if "stem" in names else {}
        # named_children and hasattr are the loop and the test that TorchScript unrolls.
        for name, module in self.named_children():
            if hasattr(module, "is_stage"):
                x = module(x)
                if name in names:
                    features[name] = x
        return features

    def activated_taps(self, images: Tensor, names: list[str]) -> dict[str, Tensor]:
        """Returns what the norm and activation after each named stage make of its output."""
        features: dict[str, Tensor] = {}
        x, previous = self.stem(images), "stem"
        for name, module in self.named_children():
            if hasattr(module, "is_stage"):
                activated = module.enter(x)  # type: ignore[operator]
                if previous in names:
                    features[previous] = activated
                x = module(x, activated)
                previous = name
        if self.norm is not None:
            features[previous] = self.norm(x)
        return features

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Computes every residual unit again in backward instead of storing its activations."""
        for unit in self._units():
            unit.grad_checkpointing = enable

    def set_activation_recompute(self, enable: bool = True) -> None:
        """Computes norms and activations again in backward instead of storing what they return.

        About half the memory of activations for some 10 % more time, and the same gradients, to
        the last bit. ``set_grad_checkpointing`` saves more, takes more time, and has precedence.
        A graph allows one backward pass. Nothing changes inside torch.compile, whose partitioner
        decides for itself what to compute again, under torch.func and under tracers.

        Args:
            enable: Whether to, from now on.
        """
        for unit in self._units():
            unit.activation_recompute = enable

    def _units(self) -> list[Unit]:
        return [module for module in self.modules() if isinstance(module, Unit)]
