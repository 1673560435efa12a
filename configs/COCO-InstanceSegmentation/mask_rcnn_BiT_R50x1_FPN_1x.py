from ..common.bit import STAGES, coco_recipe, set_fpn

model, dataloader, optimizer, lr_multiplier, train = coco_recipe("mask_rcnn_fpn")
set_fpn(model, "R50x1", STAGES)
