"""What the torchvision builders choose where the caller does not, each choice in one place."""

from collections.abc import Callable

from torch import nn

from bit_backbone.config import DENSE_FEATURE_NORM

FEATURE_NORM = DENSE_FEATURE_NORM
"""The ``feature_norm`` of dense-prediction backbones asked for by the name of a variant."""

FPN_NORM_LAYER: Callable[..., nn.Module] | None = None
"""The norm after every convolution of the feature pyramid; None for a bias instead."""

FPN_OUT_CHANNELS = 256
"""Channels of every pyramid level (arXiv 1612.03144, section 4)."""

TRAINABLE_LAYERS = 3
"""Layers of a pretrained detection backbone that train, as in torchvision's builders: the stem and
stage1 are frozen."""

PIXEL_MEAN = PIXEL_STD = 0.5
"""BiT was trained on pixels in [-1, 1]; torchvision's detectors default to ImageNet statistics."""

ASK_FOR_WEIGHTS = 'load them with weights_backbone="{name}" (bit_fpn_backbone: weights="{name}")'
"""How the caller of a builder asks for a backbone's weights, for a warning."""
