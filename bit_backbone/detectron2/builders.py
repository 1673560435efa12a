"""The builders for ``MODEL.BACKBONE.NAME``, which read the configuration."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7
from torch import nn

from bit_backbone.config import VARIANTS, warn_of_random_weights
from bit_backbone.detectron2.backbone import Detectron2BitBackbone, tap_name
from bit_backbone.detectron2.config import bit_node, network_of
from bit_backbone.detectron2.pixels import warn_about_pixels

__all__ = [
    "build_bit_backbone",
    "build_bit_deeplab_backbone",
    "build_bit_fpn_backbone",
    "build_fcos_bit_fpn_backbone",
    "build_retinanet_bit_fpn_backbone",
]

Builder = Callable[[CfgNode, ShapeSpec], nn.Module]


def _register(builder: Builder) -> Builder:
    """Registers a builder; reloading this module finds its own earlier one and leaves it."""
    name = builder.__name__
    held = BACKBONE_REGISTRY.get(name) if name in BACKBONE_REGISTRY else None
    if held is None or held.__module__ != builder.__module__:
        BACKBONE_REGISTRY.register(builder)
    return builder


@_register
def build_bit_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Detectron2BitBackbone:
    """Builds BiT without a pyramid, for heads on dilated stages (DC5) and for other necks.

    Args:
        cfg: Reads ``MODEL.BIT`` (its defaults, where it is missing) and
            ``MODEL.BACKBONE.FREEZE_AT``.
        input_shape: Its ``channels`` are those of the image.

    Raises:
        ValueError: A value breaks a rule of BitConfig.
    """
    node = bit_node(cfg)
    return _build(cfg, node, input_shape, node.OUT_FEATURES)


@_register
def build_bit_deeplab_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Detectron2BitBackbone:
    """Builds BiT without a pyramid, with the outputs in ``MODEL.SEM_SEG_HEAD.IN_FEATURES``.

    These may be ours (stage1) or those of DeepLab's configurations (res2).
    ``MODEL.BIT.OUTPUT_STRIDE`` takes the place of ``MODEL.RESNETS.RES5_DILATION``.

    Args:
        cfg: Read as by ``build_bit_backbone``.
        input_shape: Its ``channels`` are those of the image.

    Raises:
        ValueError: A value breaks a rule of BitConfig.
    """
    node = bit_node(cfg)
    return _build(cfg, node, input_shape, _asked(cfg, node, "SEM_SEG_HEAD"))


@_register
def build_bit_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Builds BiT with an FPN, and a max-pooled level on top for the RPN: P2 to P6.

    Args:
        cfg: Read as by ``build_bit_backbone``, and ``MODEL.FPN``; ``MODEL.FPN.IN_FEATURES`` may be
            empty (every stage), or name stages as we do (stage1) or as detectron2 does (res2).
        input_shape: Its ``channels`` are those of the image.

    Raises:
        ValueError: A value breaks a rule of BitConfig, or the strides do not double.
    """
    bottom_up = _build_for_fpn(cfg, input_shape, first=1)
    top = LastLevelMaxPool()
    top.in_feature = _last_level(bottom_up)  # "p5" by default, whatever the strides are
    return _fpn(cfg, bottom_up, top)


@_register
def build_retinanet_bit_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Builds BiT with RetinaNet's FPN: P3 to P5, and P6 and P7 from the last stage.

    Args:
        cfg: As for ``build_bit_fpn_backbone``; without ``IN_FEATURES``, stage2 and deeper.
        input_shape: Its ``channels`` are those of the image.

    Raises:
        ValueError: A value breaks a rule of BitConfig, or the strides do not double.
    """
    bottom_up = _build_for_fpn(cfg, input_shape, first=2)
    name, shape = list(bottom_up.output_shape().items())[-1]
    return _fpn(cfg, bottom_up, LastLevelP6P7(shape.channels, cfg.MODEL.FPN.OUT_CHANNELS, name))


@_register
def build_fcos_bit_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Builds BiT with FCOS's FPN: P3 to P5, and P6 and P7 from P5 (arXiv 2006.09214, section 2.2).

    Args:
        cfg: As for ``build_retinanet_bit_fpn_backbone``.
        input_shape: Its ``channels`` are those of the image.

    Raises:
        ValueError: A value breaks a rule of BitConfig, or the strides do not double.
    """
    bottom_up = _build_for_fpn(cfg, input_shape, first=2)
    channels = cfg.MODEL.FPN.OUT_CHANNELS
    return _fpn(cfg, bottom_up, LastLevelP6P7(channels, channels, _last_level(bottom_up)))


def _build(
    cfg: CfgNode, node: CfgNode, input_shape: ShapeSpec, names: Sequence[str]
) -> Detectron2BitBackbone:
    """Builds the bottom-up network with exactly the outputs ``names``; none: the last stage."""
    warn_about_pixels(cfg)
    warn_of_random_weights(
        node.VARIANT, cfg.MODEL.WEIGHTS or None, 'set MODEL.WEIGHTS to "bit://{name}"'
    )
    names = names or _stages(node)[-1:]
    return Detectron2BitBackbone(
        network_of(node, input_shape.channels, [tap_name(name) for name in names]),
        out_features=names,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
        grad_checkpointing=node.GRAD_CHECKPOINTING,
        activation_recompute=node.ACTIVATION_RECOMPUTE,
    )


def _build_for_fpn(cfg: CfgNode, input_shape: ShapeSpec, first: int) -> Detectron2BitBackbone:
    """Builds the stages that an FPN asks for; by default those from ``first`` on."""
    node = bit_node(cfg)
    return _build(cfg, node, input_shape, _asked(cfg, node, "FPN") or _stages(node)[first - 1 :])


def _stages(node: CfgNode) -> list[str]:
    depth = len(node.DEPTHS or node.HIDDEN_SIZES or next(iter(VARIANTS.values()))[0])
    return [f"stage{index}" for index in range(1, depth + 1)]


def _asked(cfg: CfgNode, node: CfgNode, consumer: str) -> list[str]:
    """The outputs that a consumer asks for, or else ``MODEL.BIT.OUT_FEATURES``.

    Outputs that nobody asks for are not built: unused parameters break DistributedDataParallel.
    """
    asked, offered = list(cfg.MODEL[consumer].IN_FEATURES), list(node.OUT_FEATURES)
    unknown = {tap_name(name) for name in asked} - {tap_name(name) for name in offered}
    if asked and offered and unknown:
        raise ValueError(
            f"MODEL.{consumer}.IN_FEATURES must be among MODEL.BIT.OUT_FEATURES, got {asked} and "
            f"{offered}; leave MODEL.BIT.OUT_FEATURES empty to build what is asked for"
        )
    return asked or offered


def _last_level(bottom_up: Detectron2BitBackbone) -> str:
    return f"p{int(math.log2(bottom_up.strides[-1]))}"


def _fpn(cfg: CfgNode, bottom_up: Detectron2BitBackbone, top: Any) -> FPN:
    _check_levels(bottom_up)
    return FPN(
        bottom_up=bottom_up,
        in_features=list(bottom_up.output_shape()),
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=top,
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )


def _check_levels(bottom_up: Detectron2BitBackbone) -> None:
    """Checks that each level of an FPN, doubled, has the size of the one before."""
    if any(b != 2 * a for a, b in itertools.pairwise(bottom_up.strides)):
        shapes = bottom_up.output_shape().items()
        listed = ", ".join(f"{name} {shape.stride}" for name, shape in shapes)
        raise ValueError(
            f"an FPN needs strides that double from level to level, got {listed}; restrict "
            "MODEL.FPN.IN_FEATURES to stages that do (at MODEL.BIT.OUTPUT_STRIDE 16 to stage1, "
            "stage2, stage3; the stem has the stride of stage1)"
        )
    if bottom_up.config.global_padding == "valid":
        raise ValueError(
            "an FPN needs levels of half the size each, which MODEL.BIT.GLOBAL_PADDING 'valid' "
            "does not give; use None or 'same'"
        )
