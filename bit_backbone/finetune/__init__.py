"""Fine-tuning a classifier by BiT-HyperRule (arXiv 1912.11370, section 3.3)."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bit_backbone.finetune.evaluation import Metrics, evaluate
    from bit_backbone.finetune.fewshot import dataset_labels, select_few_shot
    from bit_backbone.finetune.hyperrule import Resolution, Schedule
    from bit_backbone.finetune.settings import FineTuneSettings
    from bit_backbone.finetune.splitting import backward_in_parts
    from bit_backbone.finetune.training import FineTuneResult, finetune
    from bit_backbone.finetune.transforms import eval_transform, train_transform

__all__ = [
    "FineTuneResult",
    "FineTuneSettings",
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
    "FineTuneResult": "training",
    "FineTuneSettings": "settings",
    "Metrics": "evaluation",
    "Resolution": "hyperrule",
    "Schedule": "hyperrule",
    "backward_in_parts": "splitting",
    "dataset_labels": "fewshot",
    "eval_transform": "transforms",
    "evaluate": "evaluation",
    "finetune": "training",
    "select_few_shot": "fewshot",
    "train_transform": "transforms",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
