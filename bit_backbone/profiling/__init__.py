"""Measures the cost of a network: parameters, operations, bytes and milliseconds."""

from typing import TYPE_CHECKING

from bit_backbone.utils.lazy import lazy_exports

if TYPE_CHECKING:
    from bit_backbone.profiling.forward_cost import Profile, StageTimer, profile

__all__ = [
    "Profile",
    "StageTimer",
    "profile",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Profile": "bit_backbone.profiling.forward_cost",
        "StageTimer": "bit_backbone.profiling.forward_cost",
        "profile": "bit_backbone.profiling.forward_cost",
    },
)
