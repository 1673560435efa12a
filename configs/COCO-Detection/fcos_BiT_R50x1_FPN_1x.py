from ..common.bit import STAGES, coco_recipe, set_fpn

model, dataloader, optimizer, lr_multiplier, train = coco_recipe("fcos")
set_fpn(model, "R50x1", STAGES[1:])
dataloader.train.mapper.use_instance_mask = False
optimizer.lr = 0.01
