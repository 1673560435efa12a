"""A web page to look at what networks see, find and recognise, made with Gradio."""

from typing import TYPE_CHECKING

from bit_backbone.utils.lazy import lazy_exports

if TYPE_CHECKING:
    from bit_backbone.app.networks import Networks
    from bit_backbone.app.page import build_page
    from bit_backbone.app.serving import serve

__all__ = ["Networks", "build_page", "serve"]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Networks": "bit_backbone.app.networks",
        "build_page": "bit_backbone.app.page",
        "serve": "bit_backbone.app.serving",
    },
)
