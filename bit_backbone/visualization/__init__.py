"""Draws feature maps and detected objects as pictures."""

from typing import TYPE_CHECKING

from bit_backbone.utils.lazy import lazy_exports

if TYPE_CHECKING:
    from bit_backbone.visualization.feature_maps import (
        beside,
        channel_mosaic,
        norm_histogram,
        pixel_norms,
        principal_components,
        to_picture,
    )
    from bit_backbone.visualization.objects import comparison, draw_objects

__all__ = [
    "beside",
    "channel_mosaic",
    "comparison",
    "draw_objects",
    "norm_histogram",
    "pixel_norms",
    "principal_components",
    "to_picture",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "beside": "bit_backbone.visualization.feature_maps",
        "channel_mosaic": "bit_backbone.visualization.feature_maps",
        "comparison": "bit_backbone.visualization.objects",
        "draw_objects": "bit_backbone.visualization.objects",
        "norm_histogram": "bit_backbone.visualization.feature_maps",
        "pixel_norms": "bit_backbone.visualization.feature_maps",
        "principal_components": "bit_backbone.visualization.feature_maps",
        "to_picture": "bit_backbone.visualization.feature_maps",
    },
)
