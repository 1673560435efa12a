"""Big Transfer (BiT) as a backbone for dense prediction.

Importing the package is cheap: a name is imported, and torch with it, when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bit_backbone.backbone import BitBackbone
    from bit_backbone.config import BitConfig
    from bit_backbone.heads import BitForImageClassification, BitModel
    from bit_backbone.preprocessing import BitImageProcessor

__version__ = "0.1.0.dev0"

__all__ = [
    "BitBackbone",
    "BitConfig",
    "BitForImageClassification",
    "BitImageProcessor",
    "BitModel",
    "__version__",
]

_HOME = {
    "BitBackbone": "bit_backbone.backbone",
    "BitConfig": "bit_backbone.config",
    "BitForImageClassification": "bit_backbone.heads",
    "BitImageProcessor": "bit_backbone.preprocessing",
    "BitModel": "bit_backbone.heads",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value  # the next use does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
