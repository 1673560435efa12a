"""BiT in torchvision: detectors, segmenters and classifiers, by builder and by registered name.

Importing this module enters every builder into torchvision's registry:

    >>> import torchvision, bit_backbone.torchvision
    >>> torchvision.models.list_models(include="*_bit_fpn")
    ['fasterrcnn_bit_fpn', 'fcos_bit_fpn', 'keypointrcnn_bit_fpn', ...]
    >>> torchvision.models.get_model("fasterrcnn_bit_fpn", variant="R101x1", num_classes=11)
"""

from bit_backbone.torchvision.classification import (
    BitClassifier,
    bit_r50x1,
    bit_r50x3,
    bit_r101x1,
    bit_r101x3,
    bit_r152x2,
    bit_r152x4,
)
from bit_backbone.torchvision.detection import (
    fasterrcnn_bit_fpn,
    fcos_bit_fpn,
    keypointrcnn_bit_fpn,
    maskrcnn_bit_fpn,
    retinanet_bit_fpn,
)
from bit_backbone.torchvision.features import BitFPNBackbone, bit_fpn_backbone
from bit_backbone.torchvision.segmentation import deeplabv3_bit, fcn_bit
from bit_backbone.torchvision.tiny import fasterrcnn_bit_tiny_fpn
from bit_backbone.torchvision.weights import (
    BiT_R50x1_Weights,
    BiT_R50x3_Weights,
    BiT_R101x1_Weights,
    BiT_R101x3_Weights,
    BiT_R152x2_Weights,
    BiT_R152x4_Weights,
)

__all__ = [
    "BiT_R50x1_Weights",
    "BiT_R50x3_Weights",
    "BiT_R101x1_Weights",
    "BiT_R101x3_Weights",
    "BiT_R152x2_Weights",
    "BiT_R152x4_Weights",
    "BitClassifier",
    "BitFPNBackbone",
    "bit_fpn_backbone",
    "bit_r50x1",
    "bit_r50x3",
    "bit_r101x1",
    "bit_r101x3",
    "bit_r152x2",
    "bit_r152x4",
    "deeplabv3_bit",
    "fasterrcnn_bit_fpn",
    "fasterrcnn_bit_tiny_fpn",
    "fcn_bit",
    "fcos_bit_fpn",
    "keypointrcnn_bit_fpn",
    "maskrcnn_bit_fpn",
    "retinanet_bit_fpn",
]
