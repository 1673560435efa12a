"""The BiT network from image to feature maps: stem, residual units, stages, outputs.

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
    """The shortcut of a stage's first unit: a 1x1 convolution, and a norm in bottleneck nets."""

    def __init__(self, config: BitConfig, stage: StageSpec) -> None:
        super().__init__()
        self.conv = std_conv(config, stage.in_channels, stage.channels, 1, stride=stage.stride)
        self.norm = post_norm(config, stage.channels, act=False)

    def forward(self, x: Tensor) -> Tensor:
        """Projects [N, Cin, H, W] to [N, Cout, H/stride, W/stride]."""
        return self.norm(self.conv(x))


class Unit(nn.Module):
    """The common part of both kinds of residual unit: three convolutions and the shortcut.

    Attributes:
        grad_checkpointing: Whether backward recomputes the unit from its input.
        activation_recompute: Whether backward recomputes norms and activations.
        saved_convolutions: With ``activation_recompute``, how many first convolutions are saved.
    """

    # Set on the class, for pickled units of earlier versions that lack these attributes.
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
        """Crops the shortcut to the size of the branch, which is smaller without padding."""
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
        """All except the last one, whose result is only added."""
        return 2 if self.downsample is None else 3

    @kernels.norms_overwrite(("conv1", "norm2"), ("conv2", "norm3"))
    @kernels.recomputable
    def forward(self, x: Tensor, activated: Tensor | None = None) -> Tensor:
        """Maps raw residual sums to raw residual sums; ``activated`` is norm1(x), if computed."""
        activated = self.norm1(x) if activated is None else activated
        branch = self.norm3(self.conv2(self.norm2(self.conv1(activated))))
        # The projection reads the pre-activation. It runs now, in memory that the branch freed.
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
        """Maps the previous stage's output to its own; ``activated`` is enter(x), if computed."""
        # An argument, not another method, so that hooks and tracers see each stage and unit called.
        for unit in self:
            x = unit(x, activated)
            activated = None
        return x

    def enter(self, x: Tensor) -> Tensor:
        """Applies the first norm and activation, in pre-activation stages."""
        return self[0].norm1(x)  # type: ignore[operator]


class BitNetwork(nn.Module):
    """Stem and the needed stages, with named outputs.

    ``stem``, ``stage1`` .. and ``norm`` are direct children in execution order, as torchvision's
    IntermediateLayerGetter expects. A user's module can replace any of them; one that replaces a
    stage needs no ``enter`` if all outputs are raw.

    Args:
        config: The network.
        last: Index of the deepest stage to build; 0 builds only the stem.
        norm: Whether to build the pre-activation norm after the deepest stage.
    """

    def __init__(self, config: BitConfig, *, last: int, norm: bool) -> None:
        super().__init__()
        self.config = config
        self.stem = Stem(config, config.smallest_image(last))
        for spec in config.stages[:last]:
            setattr(self, spec.name, Stage(config, spec))
        self.norm = group_norm(config, config.channels[last]) if norm else None

    def __setattr__(self, name: str, value: Any) -> None:
        # Marks stages, including a user's modules in their place, for the loops below.
        if isinstance(value, nn.Module) and name.startswith("stage"):
            value.is_stage = True  # type: ignore[assignment]
        super().__setattr__(name, value)

    def raw_taps(self, images: Tensor, names: list[str]) -> dict[str, Tensor]:
        """Returns the residual sums of the named stages, shallow to deep."""
        x = self.stem(images)
        features = {"stem": x} if "stem" in names else {}
        # TorchScript can unroll a loop over named_children and a test with hasattr.
        for name, module in self.named_children():
            if hasattr(module, "is_stage"):
                x = module(x)
                if name in names:
                    features[name] = x
        return features

    def activated_taps(self, images: Tensor, names: list[str]) -> dict[str, Tensor]:
        """Returns the named stages' outputs after norm and activation, shallow to deep."""
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
        """Recomputes every residual unit in backward instead of storing its activations."""
        for unit in self._units():
            unit.grad_checkpointing = enable

    def set_activation_recompute(self, enable: bool = True) -> None:
        """Recomputes norms and activations in backward instead of storing their results.

        It halves the memory of activations for about 10 % more time; gradients stay the same to the
        last bit. ``set_grad_checkpointing`` saves more, takes more time, and has precedence. A
        graph allows one backward pass. The setting has no effect inside torch.compile, whose
        partitioner chooses what to recompute, under torch.func, and under tracers.

        Args:
            enable: Whether to recompute.
        """
        for unit in self._units():
            unit.activation_recompute = enable

    def _units(self) -> list[Unit]:
        return [module for module in self.modules() if isinstance(module, Unit)]
