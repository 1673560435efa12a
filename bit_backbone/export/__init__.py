"""Models as files that other runtimes run: captured, written, verified and read back."""

from typing import TYPE_CHECKING

from bit_backbone.utils.lazy import lazy_exports

if TYPE_CHECKING:
    from bit_backbone.export.exporting import ExportReport, export
    from bit_backbone.export.loading import ExportedModel, load
    from bit_backbone.export.settings import FORMATS, ExportSettings

__all__ = ["FORMATS", "ExportReport", "ExportSettings", "ExportedModel", "export", "load"]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "FORMATS": "bit_backbone.export.settings",
        "ExportReport": "bit_backbone.export.exporting",
        "ExportSettings": "bit_backbone.export.settings",
        "ExportedModel": "bit_backbone.export.loading",
        "export": "bit_backbone.export.exporting",
        "load": "bit_backbone.export.loading",
    },
)
