"""Folders in COCO's format: reading, checking, evaluating."""

from typing import TYPE_CHECKING

from bit_backbone.utils.lazy import lazy_exports

if TYPE_CHECKING:
    from bit_backbone.datasets.coco.folder import CocoFolder
    from bit_backbone.datasets.coco.problems import AnnotationError, Problem

__all__ = [
    "AnnotationError",
    "CocoFolder",
    "Problem",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "AnnotationError": "bit_backbone.datasets.coco.problems",
        "CocoFolder": "bit_backbone.datasets.coco.folder",
        "Problem": "bit_backbone.datasets.coco.problems",
    },
)
