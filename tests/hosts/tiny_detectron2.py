"""Small configurations, models and inputs for the tests with detectron2."""

from typing import Any

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.layers import ShapeSpec
from detectron2.structures import Boxes, Instances

from bit_backbone.detectron2 import add_bit_config

# Channels 16, 32, 64, 128, 256 from the stem on.
TINY = {
    "depths": (1, 1, 1, 1),
    "hidden_sizes": (32, 64, 128, 256),
    "embedding_size": 16,
    "num_groups": 8,
}
RGB = ShapeSpec(channels=3)


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


def training_input(height: int, width: int, categories: int = 80) -> dict[str, Any]:
    """One image with one object of every kind of annotation."""
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(torch.tensor([[4.0, 6.0, width * 0.7, height * 0.8]]))
    instances.gt_classes = torch.tensor([categories - 1])
    return {
        "image": torch.randint(0, 256, (3, height, width), dtype=torch.uint8),
        "instances": instances,
        "height": height,
        "width": width,
    }
