"""A detector for small images and small machines, on which one with R50x1 would take hours."""

# No "from __future__ import annotations": get_model_weights reads the builders' annotations.

from collections.abc import Callable
from typing import Any

from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.rpn import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign

from bit_backbone.config import BitConfig
from bit_backbone.torchvision import defaults
from bit_backbone.torchvision.arguments import check_arguments
from bit_backbone.torchvision.body import WeightsSource, dense_config, validate_trainable_layers
from bit_backbone.torchvision.features import bit_fpn_backbone
from bit_backbone.torchvision.registry import register
from bit_backbone.torchvision.weights import FasterRCNN_BiT_FPN_Weights

__all__ = ["TINY", "fasterrcnn_bit_tiny_fpn"]

TINY = BitConfig(
    embedding_size=16,
    hidden_sizes=(64, 128, 256, 512),
    depths=(1, 2, 2, 1),
    num_groups=8,
    feature_norm="preact",
)
"""R50x1's blocks, at a quarter of its width and 6 of its 16 units: 0.6 million parameters."""

MIN_SIZE, MAX_SIZE = 160, 320
CHANNELS = 64
HEAD_WIDTH = 256
POOLED = 7
ANCHOR_SIZES = ((16,), (32,), (64,), (96,), (128,))
ASPECT_RATIOS = (0.5, 1.0, 2.0)
# The size of a box, in pixels, that is pooled from the level of stride 8; 224 and 16 for COCO.
CANONICAL_SIZE, CANONICAL_LEVEL = 64, 3


@register
def fasterrcnn_bit_tiny_fpn(
    *,
    weights: FasterRCNN_BiT_FPN_Weights | str | None = None,
    progress: bool = True,
    num_classes: int | None = None,
    weights_backbone: WeightsSource | None = None,
    trainable_backbone_layers: int | None = None,
    feature_norm: str | None = None,
    norm_layer: Callable[..., nn.Module] | None = defaults.FPN_NORM_LAYER,
    **kwargs: Any,
) -> FasterRCNN:
    """Builds Faster R-CNN (arXiv 1506.01497) on ``TINY`` for images of about 160 to 320 pixels.

    As ``fasterrcnn_bit_fpn``, with a pyramid of 64 channels, anchors from 16 pixels, a narrow box
    head, and few proposals: a step on four images of 160x192 takes a quarter of a second of CPU.

    Args:
        weights: Weights of the whole detector; none have been published, so None.
        progress: Whether to show the progress of a download.
        num_classes: Classes including the background; None: 91, as torchvision labels COCO.
        weights_backbone: The path of a checkpoint of ``TINY``.
        trainable_backbone_layers: How many of stage4, stage3, stage2, stage1 and the stem train;
            None: 3. Without ``weights_backbone`` all do.
        feature_norm: See ``bit_fpn_backbone``; None: that of ``TINY``.
        norm_layer: The pyramid's, see ``bit_fpn_backbone``.
        **kwargs: Arguments of torchvision's ``FasterRCNN``.

    Raises:
        ValueError: An argument is out of its range, or one that torchvision's class does not take.
        CheckpointError: ``weights_backbone`` cannot be found, read or matched (a ValueError).
    """
    check_arguments(fasterrcnn_bit_tiny_fpn, kwargs)
    FasterRCNN_BiT_FPN_Weights.verify(weights)
    config = dense_config(TINY, feature_norm)
    layers = validate_trainable_layers(
        config, trainable_backbone_layers, weights_backbone is not None
    )
    backbone = bit_fpn_backbone(
        config,
        weights=weights_backbone,
        trainable_layers=layers,
        norm_layer=norm_layer,
        out_channels=CHANNELS,
        progress=progress,
    )
    settings = _settings(91 if num_classes is None else num_classes)
    return FasterRCNN(backbone, **settings | kwargs)


def _settings(num_classes: int) -> dict[str, Any]:
    pixels = [defaults.PIXEL_MEAN] * 3
    levels = [str(index) for index in range(len(ANCHOR_SIZES) - 1)]
    return {
        "image_mean": pixels,
        "image_std": pixels,
        "min_size": MIN_SIZE,
        "max_size": MAX_SIZE,
        "rpn_anchor_generator": AnchorGenerator(ANCHOR_SIZES, (ASPECT_RATIOS,) * len(ANCHOR_SIZES)),
        "rpn_pre_nms_top_n_train": 400,
        "rpn_post_nms_top_n_train": 200,
        "rpn_pre_nms_top_n_test": 200,
        "rpn_post_nms_top_n_test": 100,
        "rpn_batch_size_per_image": 128,
        "box_batch_size_per_image": 64,
        "box_roi_pool": MultiScaleRoIAlign(
            levels,
            POOLED,
            sampling_ratio=2,
            canonical_scale=CANONICAL_SIZE,
            canonical_level=CANONICAL_LEVEL,
        ),
        "box_head": TwoMLPHead(CHANNELS * POOLED**2, HEAD_WIDTH),
        "box_predictor": FastRCNNPredictor(HEAD_WIDTH, num_classes),
    }
