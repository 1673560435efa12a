"""Detectors: torchvision's own, on BiT with a feature pyramid.

The builders follow torchvision's for ResNet-50 in signature, pyramid levels and defaults, apart
from ``variant`` and the pixels' mean and standard deviation. They take images in [0, 1].
"""

# No "from __future__ import annotations": get_model_weights reads the builders' annotations.

from collections.abc import Callable
from typing import Any

from torch import nn
from torchvision.models.detection import FCOS, FasterRCNN, KeypointRCNN, MaskRCNN, RetinaNet
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from bit_backbone.config import BitConfig, warn_of_random_weights
from bit_backbone.torchvision import defaults
from bit_backbone.torchvision.arguments import check_arguments
from bit_backbone.torchvision.body import WeightsSource, dense_config, validate_trainable_layers
from bit_backbone.torchvision.features import BitFPNBackbone, bit_fpn_backbone
from bit_backbone.torchvision.registry import register
from bit_backbone.torchvision.weights import (
    FasterRCNN_BiT_FPN_Weights,
    FCOS_BiT_FPN_Weights,
    KeypointRCNN_BiT_FPN_Weights,
    MaskRCNN_BiT_FPN_Weights,
    RetinaNet_BiT_FPN_Weights,
)

__all__ = [
    "fasterrcnn_bit_fpn",
    "fcos_bit_fpn",
    "keypointrcnn_bit_fpn",
    "maskrcnn_bit_fpn",
    "retinanet_bit_fpn",
]

# As torchvision labels COCO; category ids run to 90, and 0 is the background.
COCO_CLASSES = 91
COCO_PERSON_CLASSES = 2
COCO_PERSON_KEYPOINTS = 17


@register
def fasterrcnn_bit_fpn(
    *,
    variant: BitConfig | str = "R50x1",
    weights: FasterRCNN_BiT_FPN_Weights | str | None = None,
    progress: bool = True,
    num_classes: int | None = None,
    weights_backbone: WeightsSource | None = None,
    trainable_backbone_layers: int | None = None,
    feature_norm: str | None = None,
    norm_layer: Callable[..., nn.Module] | None = defaults.FPN_NORM_LAYER,
    **kwargs: Any,
) -> FasterRCNN:
    """Builds Faster R-CNN (arXiv 1506.01497) on a BiT-FPN backbone.

    Args:
        variant: The name of a published network ("R101x3") or a BitConfig of four stages.
        weights: Weights of the whole detector; none have been published, so None.
        progress: Whether to show the progress of a download.
        num_classes: Classes including the background; None: 91, as torchvision labels COCO.
        weights_backbone: Pretrained weights of BiT: a member of a weights enum ("IMAGENET21K_BIT_M"
            for short), a name of the catalog ("BiT-M-R50x1") or the path of a checkpoint.
        trainable_backbone_layers: How many of stage4, stage3, stage2, stage1 and the stem train;
            None: 3. Without ``weights_backbone`` all do.
        feature_norm: See ``bit_fpn_backbone``.
        norm_layer: The pyramid's, see ``bit_fpn_backbone``.
        **kwargs: Arguments of torchvision's ``FasterRCNN``.

    Raises:
        ValueError: An argument is out of its range, or one that torchvision's class does not take.
        CheckpointError: ``weights_backbone`` cannot be found, read or matched (a ValueError).
    """
    check_arguments(fasterrcnn_bit_fpn, kwargs)
    FasterRCNN_BiT_FPN_Weights.verify(weights)
    backbone = _pyramid(
        variant, weights_backbone, trainable_backbone_layers, feature_norm, norm_layer, progress
    )
    return FasterRCNN(backbone, **_settings(backbone, num_classes, COCO_CLASSES, kwargs))


@register
def maskrcnn_bit_fpn(
    *,
    variant: BitConfig | str = "R50x1",
    weights: MaskRCNN_BiT_FPN_Weights | str | None = None,
    progress: bool = True,
    num_classes: int | None = None,
    weights_backbone: WeightsSource | None = None,
    trainable_backbone_layers: int | None = None,
    feature_norm: str | None = None,
    norm_layer: Callable[..., nn.Module] | None = defaults.FPN_NORM_LAYER,
    **kwargs: Any,
) -> MaskRCNN:
    """Builds Mask R-CNN (arXiv 1703.06870) on a BiT-FPN backbone.

    Arguments and errors are those of ``fasterrcnn_bit_fpn``; ``kwargs`` go to torchvision's
    ``MaskRCNN``.
    """
    check_arguments(maskrcnn_bit_fpn, kwargs)
    MaskRCNN_BiT_FPN_Weights.verify(weights)
    backbone = _pyramid(
        variant, weights_backbone, trainable_backbone_layers, feature_norm, norm_layer, progress
    )
    return MaskRCNN(backbone, **_settings(backbone, num_classes, COCO_CLASSES, kwargs))


@register
def keypointrcnn_bit_fpn(
    *,
    variant: BitConfig | str = "R50x1",
    weights: KeypointRCNN_BiT_FPN_Weights | str | None = None,
    progress: bool = True,
    num_classes: int | None = None,
    num_keypoints: int | None = None,
    weights_backbone: WeightsSource | None = None,
    trainable_backbone_layers: int | None = None,
    feature_norm: str | None = None,
    norm_layer: Callable[..., nn.Module] | None = defaults.FPN_NORM_LAYER,
    **kwargs: Any,
) -> KeypointRCNN:
    """Builds Keypoint R-CNN (arXiv 1703.06870, section 5) on a BiT-FPN backbone.

    ``num_classes`` defaults to 2 (background and person), ``num_keypoints`` to COCO's 17. The other
    arguments and the errors are those of ``fasterrcnn_bit_fpn``; ``kwargs`` go to torchvision's
    ``KeypointRCNN``.
    """
    check_arguments(keypointrcnn_bit_fpn, kwargs)
    KeypointRCNN_BiT_FPN_Weights.verify(weights)
    backbone = _pyramid(
        variant, weights_backbone, trainable_backbone_layers, feature_norm, norm_layer, progress
    )
    if num_keypoints is None:
        num_keypoints = COCO_PERSON_KEYPOINTS
    settings = _settings(backbone, num_classes, COCO_PERSON_CLASSES, kwargs)
    return KeypointRCNN(backbone, num_keypoints=num_keypoints, **settings)


@register
def retinanet_bit_fpn(
    *,
    variant: BitConfig | str = "R50x1",
    weights: RetinaNet_BiT_FPN_Weights | str | None = None,
    progress: bool = True,
    num_classes: int | None = None,
    weights_backbone: WeightsSource | None = None,
    trainable_backbone_layers: int | None = None,
    feature_norm: str | None = None,
    norm_layer: Callable[..., nn.Module] | None = defaults.FPN_NORM_LAYER,
    **kwargs: Any,
) -> RetinaNet:
    """Builds RetinaNet (arXiv 1708.02002) on a BiT-FPN backbone, levels P3 to P7.

    Arguments and errors are those of ``fasterrcnn_bit_fpn``; ``kwargs`` go to torchvision's
    ``RetinaNet``.
    """
    check_arguments(retinanet_bit_fpn, kwargs)
    RetinaNet_BiT_FPN_Weights.verify(weights)
    backbone = _pyramid(
        variant,
        weights_backbone,
        trainable_backbone_layers,
        feature_norm,
        norm_layer,
        progress,
        levels="P3-P7",
    )
    return RetinaNet(backbone, **_settings(backbone, num_classes, COCO_CLASSES, kwargs))


@register
def fcos_bit_fpn(
    *,
    variant: BitConfig | str = "R50x1",
    weights: FCOS_BiT_FPN_Weights | str | None = None,
    progress: bool = True,
    num_classes: int | None = None,
    weights_backbone: WeightsSource | None = None,
    trainable_backbone_layers: int | None = None,
    feature_norm: str | None = None,
    norm_layer: Callable[..., nn.Module] | None = defaults.FPN_NORM_LAYER,
    **kwargs: Any,
) -> FCOS:
    """Builds FCOS (arXiv 1904.01355) on a BiT-FPN backbone, levels P3 to P7.

    Arguments and errors are those of ``fasterrcnn_bit_fpn``; ``kwargs`` go to torchvision's
    ``FCOS``.
    """
    check_arguments(fcos_bit_fpn, kwargs)
    FCOS_BiT_FPN_Weights.verify(weights)
    backbone = _pyramid(
        variant,
        weights_backbone,
        trainable_backbone_layers,
        feature_norm,
        norm_layer,
        progress,
        levels="P3-P7",
    )
    return FCOS(backbone, **_settings(backbone, num_classes, COCO_CLASSES, kwargs))


def _pyramid(
    variant: BitConfig | str,
    weights: WeightsSource | None,
    trainable_layers: int | None,
    feature_norm: str | None,
    norm_layer: Callable[..., nn.Module] | None,
    progress: bool,
    levels: str = "P2-P6",
) -> BitFPNBackbone:
    warn_of_random_weights(variant, weights, defaults.ASK_FOR_WEIGHTS)
    config = dense_config(variant, feature_norm)
    if len(config.stages) != 4:
        raise ValueError(
            "the detector builders need a network of four stages, which the hosts' anchors are "
            f"made for, got {len(config.stages)}; give bit_fpn_backbone(...) and anchors of your "
            "own to torchvision's class"
        )
    layers = validate_trainable_layers(config, trainable_layers, weights is not None)
    channels = defaults.FPN_OUT_CHANNELS
    return bit_fpn_backbone(
        config,
        weights=weights,
        trainable_layers=layers,
        # P2 would hold most of the anchors (arXiv 1708.02002, section 4).
        returned_layers=[2, 3, 4] if levels == "P3-P7" else None,
        extra_blocks=LastLevelP6P7(channels, channels) if levels == "P3-P7" else None,
        norm_layer=norm_layer,
        out_channels=channels,
        progress=progress,
    )


def _settings(
    backbone: BitFPNBackbone, num_classes: int | None, default: int, kwargs: dict[str, Any]
) -> dict[str, Any]:
    """Returns the detector's arguments: what the caller gave over what BiT needs."""
    pixels = [defaults.PIXEL_MEAN] * backbone.body.config.num_channels
    return {
        "num_classes": default if num_classes is None else num_classes,
        "image_mean": pixels,
        "image_std": [defaults.PIXEL_STD] * len(pixels),
        **kwargs,
    }
