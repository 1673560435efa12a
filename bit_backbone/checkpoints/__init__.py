"""Published and saved BiT weights: the catalog, every format in and out, loading that is complete.

Imports nothing heavy until a function is used, so that listing the catalog needs no torch.
"""

from typing import TYPE_CHECKING

from bit_backbone.checkpoints.errors import CheckpointError, NotDownloadedError
from bit_backbone.checkpoints.published import PublishedCheckpoint, catalog
from bit_backbone.utils.lazy import lazy_exports

if TYPE_CHECKING:
    from bit_backbone.checkpoints.converting import ConvertReport, convert
    from bit_backbone.checkpoints.loading import load
    from bit_backbone.checkpoints.pretrained import from_pretrained, save_pretrained
    from bit_backbone.checkpoints.report import LoadReport
    from bit_backbone.checkpoints.sources import Source

__all__ = [
    "CheckpointError",
    "ConvertReport",
    "LoadReport",
    "NotDownloadedError",
    "PublishedCheckpoint",
    "Source",
    "catalog",
    "convert",
    "from_pretrained",
    "load",
    "save_pretrained",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "ConvertReport": "bit_backbone.checkpoints.converting",
        "LoadReport": "bit_backbone.checkpoints.report",
        "Source": "bit_backbone.checkpoints.sources",
        "convert": "bit_backbone.checkpoints.converting",
        "from_pretrained": "bit_backbone.checkpoints.pretrained",
        "load": "bit_backbone.checkpoints.loading",
        "save_pretrained": "bit_backbone.checkpoints.pretrained",
    },
)
