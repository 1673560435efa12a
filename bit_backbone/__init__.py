"""Big Transfer (BiT) as a backbone for dense prediction.

Importing the package is cheap: a name, and torch with it, is imported when it is first used.
"""

from typing import TYPE_CHECKING

from bit_backbone.utils.lazy import lazy_exports
from bit_backbone.utils.moved import keep_old_names

if TYPE_CHECKING:
    from bit_backbone.backbone import BitBackbone
    from bit_backbone.config import BitConfig
    from bit_backbone.heads import BitForImageClassification, BitModel
    from bit_backbone.inference import optimize_for_inference
    from bit_backbone.inference.allocator import keep_pages
    from bit_backbone.preprocessing import BitImageProcessor

__version__ = "0.1.0.dev0"

__all__ = [
    "BitBackbone",
    "BitConfig",
    "BitForImageClassification",
    "BitImageProcessor",
    "BitModel",
    "__version__",
    "keep_pages",
    "optimize_for_inference",
]

_HOME = {
    "BitBackbone": "bit_backbone.backbone",
    "BitConfig": "bit_backbone.config",
    "BitForImageClassification": "bit_backbone.heads",
    "BitImageProcessor": "bit_backbone.preprocessing",
    "BitModel": "bit_backbone.heads",
    "keep_pages": "bit_backbone.inference.allocator",
    "optimize_for_inference": "bit_backbone.inference",
}

__getattr__, __dir__ = lazy_exports(__name__, _HOME)
keep_old_names()
