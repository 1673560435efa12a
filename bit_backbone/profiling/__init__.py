"""What a network costs to run: parameters, operations, bytes and milliseconds."""

from bit_backbone.profiling.forward_cost import Profile, StageTimer, profile

__all__ = ["Profile", "StageTimer", "profile"]
