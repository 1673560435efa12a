"""Training torchvision's detectors on BiT: settings, loop, COCO metrics, runs and pictures."""

from typing import TYPE_CHECKING

from bit_backbone.utils.lazy import lazy_exports

if TYPE_CHECKING:
    from bit_backbone.detection.coco_metrics import evaluate
    from bit_backbone.detection.models import DetectorSpec
    from bit_backbone.detection.runs import load_detector
    from bit_backbone.detection.settings import DetectionSettings
    from bit_backbone.detection.training import train
    from bit_backbone.training.loop import TrainingResult
    from bit_backbone.visualization.objects import comparison, draw_objects

__all__ = [
    "DetectionSettings",
    "DetectorSpec",
    "TrainingResult",
    "comparison",
    "draw_objects",
    "evaluate",
    "load_detector",
    "train",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "DetectionSettings": "bit_backbone.detection.settings",
        "DetectorSpec": "bit_backbone.detection.models",
        "TrainingResult": "bit_backbone.training.loop",
        "comparison": "bit_backbone.visualization.objects",
        "draw_objects": "bit_backbone.visualization.objects",
        "evaluate": "bit_backbone.detection.coco_metrics",
        "load_detector": "bit_backbone.detection.runs",
        "train": "bit_backbone.detection.training",
    },
)
