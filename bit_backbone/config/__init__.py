"""What a BiT network is: its arguments, and every width, stride and dilation that follows."""

from bit_backbone.config.bit_config import DENSE_FEATURE_NORM, BitConfig
from bit_backbone.config.files import MODEL_TYPE, TRANSFORMERS_EPS
from bit_backbone.config.stages import StageSpec
from bit_backbone.config.variants import VARIANTS, variant_of, warn_of_random_weights

__all__ = [
    "DENSE_FEATURE_NORM",
    "MODEL_TYPE",
    "TRANSFORMERS_EPS",
    "VARIANTS",
    "BitConfig",
    "StageSpec",
    "variant_of",
    "warn_of_random_weights",
]
