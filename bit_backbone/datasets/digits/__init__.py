"""DigitScenes: handwritten digits on photographs, drawn on this machine."""

from typing import TYPE_CHECKING

from bit_backbone.utils.lazy import lazy_exports

if TYPE_CHECKING:
    from bit_backbone.datasets.digits.build import build_scenes
    from bit_backbone.datasets.digits.scenes import DigitScenes, Scene

__all__ = [
    "DigitScenes",
    "Scene",
    "build_scenes",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "DigitScenes": "bit_backbone.datasets.digits.scenes",
        "Scene": "bit_backbone.datasets.digits.scenes",
        "build_scenes": "bit_backbone.datasets.digits.build",
    },
)
