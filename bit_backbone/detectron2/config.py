"""The node ``MODEL.BIT`` of a detectron2 configuration, and its BitConfig."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode

from bit_backbone.config import DENSE_FEATURE_NORM, BitConfig

__all__ = ["add_bit_config", "bit_config", "bit_node"]

# Arguments of BitConfig under their own names; None and [] leave them to VARIANT.
_ARGUMENTS = (
    "WIDTH_FACTOR",
    "DEPTHS",
    "HIDDEN_SIZES",
    "EMBEDDING_SIZE",
    "LAYER_TYPE",
    "HIDDEN_ACT",
    "NUM_GROUPS",
    "OUTPUT_STRIDE",
    "GLOBAL_PADDING",
    "EMBEDDING_DYNAMIC_PADDING",
    "FEATURE_NORM",
    "DROP_PATH_RATE",
    "WEIGHT_STANDARDIZATION_EPS",
)


def add_bit_config(cfg: CfgNode) -> None:
    """Adds the node ``MODEL.BIT`` with its defaults; existing keys stay as they are.

    Args:
        cfg: The result of ``detectron2.config.get_cfg()``.
    """
    node = bit_node(cfg)
    frozen = cfg.is_frozen()
    cfg.defrost()
    cfg.MODEL.BIT = node
    if frozen:
        cfg.freeze()


def bit_node(cfg: CfgNode) -> CfgNode:
    """Returns ``cfg.MODEL.BIT`` with a default for every key that it lacks."""
    node = _defaults()
    node.update(cfg.MODEL.get("BIT", {}))
    return node


def bit_config(cfg: CfgNode, num_channels: int, out_features: Sequence[str]) -> BitConfig:
    """Reads the network from a configuration.

    Args:
        cfg: A whole configuration; ``MODEL.BIT`` may be missing.
        num_channels: Channels of the image.
        out_features: Names of the outputs, ours.

    Raises:
        ValueError: A value breaks a rule of BitConfig.
    """
    return network_of(bit_node(cfg), num_channels, out_features)


def network_of(node: CfgNode, num_channels: int, out_features: Sequence[str]) -> BitConfig:
    """Does what ``bit_config`` does, with the result of ``bit_node``."""
    overrides: dict[str, Any] = {name.lower(): _given(node[name]) for name in _ARGUMENTS}
    overrides = {name: value for name, value in overrides.items() if value is not None}
    if overrides.get("layer_type") != "bottleneck":
        overrides.setdefault("feature_norm", DENSE_FEATURE_NORM)
    return BitConfig.from_variant(
        node.VARIANT, num_channels=num_channels, out_features=tuple(out_features), **overrides
    )


def _given(value: Any) -> Any:
    """A value that was given, or None; tuples, because yacs turns neither kind into the other."""
    if isinstance(value, list | tuple):
        return tuple(value) or None
    return None if value == "" else value


def _defaults() -> CfgNode:
    node = CfgNode()
    # R50x1, R50x3, R101x1, R101x3, R152x2 or R152x4; also inside a checkpoint's name.
    node.VARIANT = "R50x1"
    # Multiplies every width; None: the variant's.
    node.WIDTH_FACTOR = None
    # Residual units of each stage; []: the variant's.
    node.DEPTHS = []
    # Width of each stage before WIDTH_FACTOR; []: 256, 512, 1024, 2048.
    node.HIDDEN_SIZES = []
    # Width of the stem before WIDTH_FACTOR.
    node.EMBEDDING_SIZE = 64
    # "preactivation" (BiT) or "bottleneck" (the ResNet of ViT hybrids).
    node.LAYER_TYPE = "preactivation"
    # "relu", "gelu", "selu" or "gelu_new".
    node.HIDDEN_ACT = "relu"
    # Groups of every GroupNorm.
    node.NUM_GROUPS = 32
    # Outputs, shallow to deep: stem, stage1 .. stage4, or res2 .. res5 for the four stages; they
    # are returned under the names used here. []: what the consumer asks for (MODEL.FPN.IN_FEATURES,
    # for DeepLab MODEL.SEM_SEG_HEAD.IN_FEATURES), else all stages for an FPN and the last without.
    node.OUT_FEATURES = []
    # 4, 8, 16 or 32: stages that would go beyond it dilate instead. An FPN needs strides that
    # double, so with 16 or 8 restrict MODEL.FPN.IN_FEATURES.
    node.OUTPUT_STRIDE = 32
    # None or "": BiT's fixed padding, what the published weights were trained with. "same":
    # TensorFlow's SAME. "valid": none.
    node.GLOBAL_PADDING = None
    # Pad the pooling of the stem as SAME, whatever GLOBAL_PADDING is.
    node.EMBEDDING_DYNAMIC_PADDING = False
    # "none": raw residual sums. "preact": through the pretrained norm of the unit that follows.
    # "groupnorm": a fresh GroupNorm for each output. None or "": bit_backbone.config's
    # DENSE_FEATURE_NORM; "none" under LAYER_TYPE "bottleneck", whose outputs are activated already.
    node.FEATURE_NORM = None
    # Stochastic depth of the last unit, in [0, 1); linear from 0 at the first.
    node.DROP_PATH_RATE = 0.0
    # Added to the variance of each filter; 1e-10 is what the published weights were trained with.
    node.WEIGHT_STANDARDIZATION_EPS = 1e-10
    # Recompute each residual unit in backward: less memory, about a third more time.
    node.GRAD_CHECKPOINTING = False
    # Recompute norms and activations in backward: half the activations, a little more time.
    node.ACTIVATION_RECOMPUTE = False
    return node
