from ..common.bit import STAGES, coco_recipe, last_channels, set_fpn

model, dataloader, optimizer, lr_multiplier, train = coco_recipe("retinanet")
set_fpn(model, "R50x1", STAGES[1:])
# P6 comes from the last stage, which detectron2 calls res5.
model.backbone.top_block.in_feature = "stage4"
model.backbone.top_block.in_channels = last_channels("R50x1")
dataloader.train.mapper.use_instance_mask = False
optimizer.lr = 0.01
