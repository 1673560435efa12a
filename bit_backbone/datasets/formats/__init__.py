"""Data sets of any supported format, read into COCO's structure."""

from typing import TYPE_CHECKING

from bit_backbone.utils.lazy import lazy_exports

if TYPE_CHECKING:
    from bit_backbone.datasets.coco.document import Document
    from bit_backbone.datasets.formats.building import FORMATS
    from bit_backbone.datasets.formats.opening import open_document
    from bit_backbone.datasets.formats.splitting import split_document
    from bit_backbone.datasets.formats.writing import write_document

__all__ = ["FORMATS", "Document", "open_document", "split_document", "write_document"]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "FORMATS": "bit_backbone.datasets.formats.building",
        "Document": "bit_backbone.datasets.coco.document",
        "open_document": "bit_backbone.datasets.formats.opening",
        "split_document": "bit_backbone.datasets.formats.splitting",
        "write_document": "bit_backbone.datasets.formats.writing",
    },
)
