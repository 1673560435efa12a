from detectron2.config import LazyCall as L

from bit_backbone.detectron2 import BitRes5

from ..common.bit import bit_bottom_up, coco_recipe, last_channels

model, dataloader, optimizer, lr_multiplier, train = coco_recipe("mask_rcnn_c4")
# stage4 runs on each region, so the backbone ends with stage3 and the norm that stage4 begins with.
model.backbone = bit_bottom_up("R50x1", ["stage3"])
model.proposal_generator.in_features = model.roi_heads.in_features = ["stage3"]
model.roi_heads.res5 = L(BitRes5)(config="R50x1")
model.roi_heads.box_predictor.input_shape.channels = last_channels("R50x1")
model.roi_heads.mask_head.input_shape.channels = last_channels("R50x1")
train.init_checkpoint = "bit-c4://BiT-M-R50x1"
