"""Turn images into what a BiT checkpoint expects, exactly as its authors or timm do."""

from bit_backbone.preprocessing.batch import BatchFeature
from bit_backbone.preprocessing.presets import PRESETS
from bit_backbone.preprocessing.processor import BitImageProcessor

__all__ = ["PRESETS", "BatchFeature", "BitImageProcessor"]
