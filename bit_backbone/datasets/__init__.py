"""Data sets: the generated DigitScenes, and folders in COCO, Pascal VOC or YOLO format."""

from typing import TYPE_CHECKING

from bit_backbone.utils.lazy import lazy_exports

if TYPE_CHECKING:
    from bit_backbone.datasets.coco import CocoFolder
    from bit_backbone.datasets.coco.document import Document
    from bit_backbone.datasets.coco.problems import AnnotationError, Problem
    from bit_backbone.datasets.digits.build import build_scenes
    from bit_backbone.datasets.digits.scenes import DigitScenes, Scene
    from bit_backbone.datasets.formats.opening import open_document
    from bit_backbone.datasets.formats.splitting import split_document
    from bit_backbone.datasets.semantic import SemanticFolder

__all__ = [
    "AnnotationError",
    "CocoFolder",
    "DigitScenes",
    "Document",
    "Problem",
    "Scene",
    "SemanticFolder",
    "build_scenes",
    "open_document",
    "split_document",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "AnnotationError": "bit_backbone.datasets.coco.problems",
        "CocoFolder": "bit_backbone.datasets.coco",
        "DigitScenes": "bit_backbone.datasets.digits.scenes",
        "Document": "bit_backbone.datasets.coco.document",
        "Problem": "bit_backbone.datasets.coco.problems",
        "Scene": "bit_backbone.datasets.digits.scenes",
        "SemanticFolder": "bit_backbone.datasets.semantic",
        "build_scenes": "bit_backbone.datasets.digits.build",
        "open_document": "bit_backbone.datasets.formats.opening",
        "split_document": "bit_backbone.datasets.formats.splitting",
    },
)
