"""Models made fast for inference: ``optimize_for_inference`` and the layers it puts in place."""

from bit_backbone.inference.optimize import optimize_for_inference

__all__ = ["optimize_for_inference"]
