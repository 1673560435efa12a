"""Fine-tuning a classifier by BiT-HyperRule (arXiv 1912.11370, section 3.3)."""

from typing import TYPE_CHECKING

from bit_backbone.utils.lazy import lazy_exports

if TYPE_CHECKING:
    from bit_backbone.finetune.accuracy import Metrics, evaluate
    from bit_backbone.finetune.fewshot import dataset_labels, select_few_shot
    from bit_backbone.finetune.folders import LabelledImages
    from bit_backbone.finetune.hyperrule import Resolution, Schedule
    from bit_backbone.finetune.settings import FineTuneSettings
    from bit_backbone.finetune.splitting import backward_in_parts
    from bit_backbone.finetune.training import FineTuneResult, finetune
    from bit_backbone.finetune.transforms import eval_transform, train_transform

__all__ = [
    "FineTuneResult",
    "FineTuneSettings",
    "LabelledImages",
    "Metrics",
    "Resolution",
    "Schedule",
    "backward_in_parts",
    "dataset_labels",
    "eval_transform",
    "evaluate",
    "finetune",
    "select_few_shot",
    "train_transform",
]

_HOME = {
    "FineTuneResult": "bit_backbone.finetune.training",
    "FineTuneSettings": "bit_backbone.finetune.settings",
    "LabelledImages": "bit_backbone.finetune.folders",
    "Metrics": "bit_backbone.finetune.accuracy",
    "Resolution": "bit_backbone.finetune.hyperrule",
    "Schedule": "bit_backbone.finetune.hyperrule",
    "backward_in_parts": "bit_backbone.finetune.splitting",
    "dataset_labels": "bit_backbone.finetune.fewshot",
    "eval_transform": "bit_backbone.finetune.transforms",
    "evaluate": "bit_backbone.finetune.accuracy",
    "finetune": "bit_backbone.finetune.training",
    "select_few_shot": "bit_backbone.finetune.fewshot",
    "train_transform": "bit_backbone.finetune.transforms",
}

__getattr__, __dir__ = lazy_exports(__name__, _HOME)
