"""How detectron2's own LazyConfigs become BiT's: the bottom-up network, the pixels, the weights.

A configuration is what `tools/lazyconfig_train_net.py` reads: model, dataloader, optimizer,
lr_multiplier and train. Batch and rate are for 8 GPUs with 2 images each; for fewer, divide
`dataloader.train.total_batch_size` and `optimizer.lr` alike and lengthen `train.max_iter`.
"""

from detectron2 import model_zoo
from detectron2.config import LazyCall as L

from bit_backbone import BitConfig
from bit_backbone.config import DENSE_FEATURE_NORM
from bit_backbone.detectron2 import Detectron2BitBackbone

STAGES = ["stage1", "stage2", "stage3", "stage4"]


def bit_bottom_up(variant, out_features, **options):
    """The network itself; residual sums pass through the pretrained norms that follow them."""
    return L(Detectron2BitBackbone)(
        config=variant,
        out_features=out_features,
        feature_norm=DENSE_FEATURE_NORM,
        **{"freeze_at": 2, **options},
    )


def last_channels(variant):
    return BitConfig.from_variant(variant).channels[-1]


def set_pixels(model, dataloader):
    model.pixel_mean = model.pixel_std = [127.5, 127.5, 127.5]
    if "input_format" in model:  # FCOS takes none
        model.input_format = "RGB"
    dataloader.train.mapper.image_format = "RGB"  # the test mapper follows


def set_fpn(model, variant, out_features, **options):
    model.backbone.bottom_up = bit_bottom_up(variant, out_features, **options)
    model.backbone.in_features = "${.bottom_up.out_features}"
    model.backbone.norm = "GN"


def coco_recipe(name, data="coco"):
    """detectron2's model of that name with its COCO data and 1x schedule, in BiT's pixels."""
    model = model_zoo.get_config(f"common/models/{name}.py").model
    dataloader = model_zoo.get_config(f"common/data/{data}.py").dataloader
    optimizer = model_zoo.get_config("common/optim.py").SGD
    lr_multiplier = model_zoo.get_config("common/coco_schedule.py").lr_multiplier_1x
    train = model_zoo.get_config("common/train.py").train
    train.init_checkpoint = "bit://BiT-M-R50x1"
    train.amp.enabled = True
    set_pixels(model, dataloader)
    return model, dataloader, optimizer, lr_multiplier, train
