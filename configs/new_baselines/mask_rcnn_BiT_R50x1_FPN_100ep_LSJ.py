"""100 epochs with large-scale jitter: detectron2's new baseline, with BiT and GroupNorm.

For 64 images a batch at a rate of 0.1. The original starts from scratch and synchronizes
BatchNorm; this one starts from BiT-M, freezes nothing and has no statistics to synchronize.
"""

from detectron2 import model_zoo

from ..common.bit import STAGES, set_fpn, set_pixels

_theirs = model_zoo.get_config("new_baselines/mask_rcnn_R_50_FPN_100ep_LSJ.py")
model, dataloader, train = _theirs.model, _theirs.dataloader, _theirs.train
optimizer, lr_multiplier = _theirs.optimizer, _theirs.lr_multiplier
set_pixels(model, dataloader)
set_fpn(model, "R50x1", STAGES, freeze_at=0)
model.roi_heads.box_head.conv_norm = model.roi_heads.mask_head.conv_norm = "GN"
train.init_checkpoint = "bit://BiT-M-R50x1"
