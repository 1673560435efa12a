"""Published and saved BiT weights: the catalog, every format in and out, loading that is complete.

Imports nothing heavy until a function is used, so that listing the catalog needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from bit_backbone.checkpoints.errors import CheckpointError, NotDownloadedError
from bit_backbone.checkpoints.published import PublishedCheckpoint, catalog

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

_HOME = {
    "ConvertReport": "converting",
    "LoadReport": "report",
    "Source": "sources",
    "convert": "converting",
    "from_pretrained": "pretrained",
    "load": "loading",
    "save_pretrained": "pretrained",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
