"""Feature maps and embeddings of many images, on one machine or on a Ray cluster."""

from typing import TYPE_CHECKING

from bit_backbone.utils.lazy import lazy_exports

if TYPE_CHECKING:
    from bit_backbone.extraction.destination import Summary
    from bit_backbone.extraction.errors import ExtractionError
    from bit_backbone.extraction.run import LocalEngine, extract
    from bit_backbone.extraction.settings import OutputSettings
    from bit_backbone.extraction.sources import find_images

__all__ = [
    "ExtractionError",
    "LocalEngine",
    "OutputSettings",
    "RayEngine",
    "Summary",
    "extract",
    "find_images",
]

_HOME = {
    "ExtractionError": "bit_backbone.extraction.errors",
    "LocalEngine": "bit_backbone.extraction.run",
    "OutputSettings": "bit_backbone.extraction.settings",
    "RayEngine": "bit_backbone.extraction.cluster",
    "Summary": "bit_backbone.extraction.destination",
    "extract": "bit_backbone.extraction.run",
    "find_images": "bit_backbone.extraction.sources",
}

__getattr__, __dir__ = lazy_exports(__name__, _HOME)
