"""Makes models fast for inference: the functions, and the layers that they use."""

from typing import TYPE_CHECKING

from bit_backbone.inference.optimize import optimize_for_inference, optimize_in_place
from bit_backbone.utils.lazy import lazy_exports

if TYPE_CHECKING:
    from bit_backbone.inference.int8_files import load_int8

__all__ = ["load_int8", "optimize_for_inference", "optimize_in_place"]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "load_int8": "bit_backbone.inference.int8_files",
    },
)
