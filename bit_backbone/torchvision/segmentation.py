"""Semantic segmentation: torchvision's own DeepLabV3 and FCN on a dilated BiT.

torchvision's segmentation models do not normalise: give them ``(pixels / 255 - 0.5) / 0.5``.
"""

# No "from __future__ import annotations": get_model_weights reads the builders' annotations.

from collections.abc import Callable

from torch import nn
from torchvision.models.segmentation import FCN, DeepLabV3
from torchvision.models.segmentation.deeplabv3 import DeepLabHead
from torchvision.models.segmentation.fcn import FCNHead

from bit_backbone.config import BitConfig, warn_of_random_weights
from bit_backbone.torchvision import defaults
from bit_backbone.torchvision.body import (
    WeightsSource,
    build_body,
    dense_config,
    set_trainable_layers,
)
from bit_backbone.torchvision.features import RenamedBackbone
from bit_backbone.torchvision.registry import register
from bit_backbone.torchvision.weights import DeepLabV3_BiT_Weights, FCN_BiT_Weights

__all__ = ["deeplabv3_bit", "fcn_bit"]

VOC_CLASSES = 21


@register
def deeplabv3_bit(
    *,
    variant: BitConfig | str = "R50x1",
    weights: DeepLabV3_BiT_Weights | str | None = None,
    progress: bool = True,
    num_classes: int | None = None,
    aux_loss: bool | None = None,
    weights_backbone: WeightsSource | None = None,
    trainable_backbone_layers: int | None = None,
    output_stride: int = 8,
    feature_norm: str | None = None,
) -> DeepLabV3:
    """Builds DeepLabV3 (arXiv 1706.05587) on a dilated BiT backbone.

    Args:
        variant: The name of a published network ("R101x3") or a BitConfig.
        weights: Weights of the whole model; none have been published, so None.
        progress: Whether to show the progress of a download.
        num_classes: Classes including the background; None: 21, as in Pascal VOC.
        aux_loss: Whether to add FCN's head on the stage before the last, output "aux", for an
            auxiliary loss.
        weights_backbone: Pretrained weights of BiT: a member of a weights enum ("IMAGENET21K_BIT_M"
            for short), a name of the catalog ("BiT-M-R50x1") or the path of a checkpoint.
        trainable_backbone_layers: How many of stage4, stage3, stage2, stage1 and the stem train;
            None: all, as torchvision's segmentation models do.
        output_stride: Input pixels per feature pixel, 8 or 16 (4 and 32 are possible); overrides
            that of a BitConfig.
        feature_norm: The ``feature_norm`` of BitConfig. None: a BitConfig's own, and for the name
            of a variant ``defaults.FEATURE_NORM``.

    Raises:
        ValueError: An argument is out of its range.
        CheckpointError: ``weights_backbone`` cannot be found, read or matched (a ValueError).
    """
    DeepLabV3_BiT_Weights.verify(weights)
    warn_of_random_weights(variant, weights_backbone, defaults.ASK_FOR_WEIGHTS)
    config = dense_config(variant, feature_norm).replace(output_stride=output_stride)
    backbone = _body(config, aux_loss, weights_backbone, trainable_backbone_layers, progress)
    classes = VOC_CLASSES if num_classes is None else num_classes
    return DeepLabV3(backbone, *_heads(DeepLabHead, backbone, classes))


@register
def fcn_bit(
    *,
    variant: BitConfig | str = "R50x1",
    weights: FCN_BiT_Weights | str | None = None,
    progress: bool = True,
    num_classes: int | None = None,
    aux_loss: bool | None = None,
    weights_backbone: WeightsSource | None = None,
    trainable_backbone_layers: int | None = None,
    output_stride: int = 8,
    feature_norm: str | None = None,
) -> FCN:
    """Builds FCN (arXiv 1411.4038) on a dilated BiT backbone.

    Arguments and errors are those of ``deeplabv3_bit``.
    """
    FCN_BiT_Weights.verify(weights)
    warn_of_random_weights(variant, weights_backbone, defaults.ASK_FOR_WEIGHTS)
    config = dense_config(variant, feature_norm).replace(output_stride=output_stride)
    backbone = _body(config, aux_loss, weights_backbone, trainable_backbone_layers, progress)
    classes = VOC_CLASSES if num_classes is None else num_classes
    return FCN(backbone, *_heads(FCNHead, backbone, classes))


def _body(
    config: BitConfig,
    aux: bool | None,
    weights: WeightsSource | None,
    trainable_layers: int | None,
    progress: bool,
) -> RenamedBackbone:
    """Builds the backbone with outputs "aux", if asked for, and "out"."""
    names = ["aux", "out"] if aux else ["out"]
    stages = [stage.index for stage in config.stages]
    body = build_body(config, stages[-len(names) :], weights, progress)
    if trainable_layers is not None:
        set_trainable_layers(body, trainable_layers)
    return RenamedBackbone(body, names)


def _heads(
    head: Callable[[int, int], nn.Module], backbone: RenamedBackbone, num_classes: int
) -> list[nn.Module]:
    """Returns the classifier and, where there is an output for it, the auxiliary one."""
    *aux_channels, channels = backbone.body.channels
    return [head(channels, num_classes), *(FCNHead(c, num_classes) for c in aux_channels)]
