"""Fine-tuning a classifier by BiT-HyperRule."""

from bit_backbone.finetune.fewshot import dataset_labels, select_few_shot
from bit_backbone.finetune.hyperrule import Schedule, mixup_alpha, resolution, schedule
from bit_backbone.finetune.mixup import mix_labels, mix_neighbours
from bit_backbone.finetune.splitting import backward_in_parts

__all__ = [
    "Schedule",
    "backward_in_parts",
    "dataset_labels",
    "mix_labels",
    "mix_neighbours",
    "mixup_alpha",
    "resolution",
    "schedule",
    "select_few_shot",
]
