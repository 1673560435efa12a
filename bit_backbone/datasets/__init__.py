"""Data sets: DigitScenes, made on the spot, and folders in COCO's format."""

from typing import TYPE_CHECKING

from bit_backbone.utils.lazy import lazy_exports

if TYPE_CHECKING:
    from bit_backbone.datasets.coco import CocoFolder
    from bit_backbone.datasets.coco.problems import AnnotationError, Problem
    from bit_backbone.datasets.digits.build import build_scenes
    from bit_backbone.datasets.digits.scenes import DigitScenes, Scene
    from bit_backbone.datasets.semantic import SemanticFolder

__all__ = [
    "AnnotationError",
    "CocoFolder",
    "DigitScenes",
    "Problem",
    "Scene",
    "SemanticFolder",
    "build_scenes",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "AnnotationError": "bit_backbone.datasets.coco.problems",
        "CocoFolder": "bit_backbone.datasets.coco",
        "DigitScenes": "bit_backbone.datasets.digits.scenes",
        "Problem": "bit_backbone.datasets.coco.problems",
        "Scene": "bit_backbone.datasets.digits.scenes",
        "SemanticFolder": "bit_backbone.datasets.semantic",
        "build_scenes": "bit_backbone.datasets.digits.build",
    },
)
