"""Small configurations, models and inputs for the tests with detectron2."""

from typing import Any

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.layers import ShapeSpec
from detectron2.projects.deeplab import add_deeplab_config
from detectron2.structures import BitMasks, Boxes, Instances, Keypoints
from detectron2.utils.events import EventStorage
from omegaconf import DictConfig
from torch import nn

from bit_backbone.detectron2 import add_bit_config, get_config_file

# Channels 16, 32, 64, 128, 256 from the stem on.
TINY = {
    "depths": (1, 1, 1, 1),
    "hidden_sizes": (32, 64, 128, 256),
    "embedding_size": 16,
    "num_groups": 8,
}
RGB = ShapeSpec(channels=3)


def read(name: str) -> CfgNode:
    """Read a shipped YAML file."""
    cfg = get_cfg()
    add_deeplab_config(cfg)
    add_bit_config(cfg)
    cfg.merge_from_file(get_config_file(name))
    return cfg


def shrink(cfg: CfgNode) -> CfgNode:
    """Make a configuration's network the tiny one."""
    for key, value in TINY.items():
        cfg.MODEL.BIT[key.upper()] = list(value) if isinstance(value, tuple) else value
    return cfg


def tiny_cfg(**options: Any) -> CfgNode:
    """detectron2's defaults with the tiny network and BiT's pixels; `A__B=1` sets MODEL.A.B."""
    cfg = get_cfg()
    add_bit_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.INPUT.FORMAT = "RGB"
    cfg.MODEL.PIXEL_MEAN = cfg.MODEL.PIXEL_STD = [127.5] * 3
    shrink(cfg)
    for key, value in options.items():
        cfg.merge_from_list([f"MODEL.{key.replace('__', '.')}", value])
    return cfg


def shrink_heads(cfg: CfgNode) -> CfgNode:
    """Make what a configuration puts on top of the network small, too."""
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.FPN.OUT_CHANNELS = 32
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 32
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 32
    cfg.MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS = (32,)
    cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM = 32
    cfg.MODEL.RPN.PRE_NMS_TOPK_TRAIN = cfg.MODEL.RPN.PRE_NMS_TOPK_TEST = 50
    cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 20
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 16
    cfg.INPUT.CROP.SIZE = [64, 96]
    return cfg


def shrink_lazy(model: DictConfig) -> DictConfig:
    """Make the network of a LazyConfig's model the tiny one."""
    bottom_up = model.backbone.get("bottom_up", model.backbone)
    bottom_up.update(TINY)
    top_block = model.backbone.get("top_block", {})
    if top_block.get("in_feature") == "stage4":  # P6 of RetinaNet
        top_block.in_channels = 256
    heads = model.get("roi_heads", {})
    if heads:
        heads.batch_size_per_image = 16
        model.proposal_generator.pre_nms_topk = (50, 50)
        model.proposal_generator.post_nms_topk = (20, 20)
    for head in (heads.get("box_head"), *heads.get("box_heads", [])):
        if head is not None:
            head.fc_dims = [32] * len(head.fc_dims)
    predictors = [heads.get("box_predictor"), *heads.get("box_predictors", [])]
    for predictor in predictors if "res5" not in heads else []:
        if predictor is not None:
            predictor.input_shape.channels = 32
    if "res5" in heads:
        model.roi_heads.res5.update(TINY)
        model.proposal_generator.head.in_channels = 128
        for head in (model.roi_heads.box_predictor, model.roi_heads.mask_head):
            head.input_shape.channels = 256
    return model


def training_input(height: int, width: int, categories: int = 1) -> dict[str, Any]:
    """One image with one object and every kind of annotation of it."""
    box = [4.0, 6.0, width * 0.7, height * 0.8]
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(torch.tensor([box]))
    instances.gt_classes = torch.tensor([categories - 1])
    masks = torch.zeros(1, height, width, dtype=torch.bool)
    masks[:, 8 : height // 2, 8 : width // 2] = True
    instances.gt_masks = BitMasks(masks)
    instances.gt_keypoints = Keypoints(torch.tensor([[[10.0, 12.0, 2.0]] * 17]))
    return {
        "image": torch.randint(0, 256, (3, height, width), dtype=torch.uint8),
        "instances": instances,
        "sem_seg": torch.randint(0, 19, (height, width)),
        "height": height,
        "width": width,
    }


def training_losses(model: nn.Module, inputs: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Do one training step up to the gradients."""
    with EventStorage():
        losses = model.train()(inputs)
    sum(losses.values()).backward()
    return losses
