"""Models made fast for inference: the functions that do it and the layers they put in place."""

from bit_backbone.inference.optimize import optimize_for_inference, optimize_in_place

__all__ = ["optimize_for_inference", "optimize_in_place"]
