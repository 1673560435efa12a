"""The published variants, and which of them the name of a checkpoint contains."""

from __future__ import annotations

import re
import warnings

__all__ = ["VARIANTS", "variant_of", "warn_of_random_weights"]

# Units per stage and width factor of the published networks (arXiv 1912.11370, section 3.1).
VARIANTS: dict[str, tuple[tuple[int, int, int, int], int]] = {
    "R50x1": ((3, 4, 6, 3), 1),
    "R50x3": ((3, 4, 6, 3), 3),
    "R101x1": ((3, 4, 23, 3), 1),
    "R101x3": ((3, 4, 23, 3), 3),
    "R152x2": ((3, 8, 36, 3), 2),
    "R152x4": ((3, 8, 36, 3), 4),
}

# R50x1, BiT-M-R50x1-ILSVRC2012.npz, vtab/BiT-M-R50x1-run0-caltech101, distill/R50x1_224 |
# resnetv2_50x1_bit.goog_in21k, timm/resnetv2_50x1_bitm_in21k
_VARIANT_NAME = re.compile(
    r"(?:vtab/|distill/)?(?:bit-[sm]-)?(?P<ours>r\d+x\d+)(?:[-._].+)?"
    r"|(?:timm/)?resnetv2_(?P<timm>\d+x\d+)_bitm?(?:[._].+)?",
    re.IGNORECASE,
)

# The one name that has a depth and no width.
_ALIASES = {"google/bit-50": "R50x1"}


def variant_of(name: str) -> str:
    """Returns the variant ("R101x3") that an official or timm name contains.

    Raises:
        ValueError: The name holds none of the six variants.
    """
    name = _ALIASES.get(name, name)
    match = _VARIANT_NAME.fullmatch(name)
    variant = f"R{(match['ours'] or match['timm']).lstrip('rR')}" if match else name
    if variant not in VARIANTS:
        raise ValueError(
            f"a BiT variant must be one of {', '.join(VARIANTS)} (or timm's resnetv2_50x1_bit, "
            "...), "
            f"got {name!r}; for other depths and widths build a BitConfig"
        )
    return variant


def warn_of_random_weights(network: object, weights: object, ask: str) -> None:
    """Warns if a network has the name of published weights, but no weights are given.

    Args:
        network: The caller's name of the network; ignored unless it is a string.
        weights: The weights, if any.
        ask: How to load the weights of ``name``, as a format string.
    """
    if weights is not None or not isinstance(network, str) or _is_architecture(network):
        return
    warnings.warn(
        f"{network!r} is the name of published weights, but the network has random weights: "
        f"{ask.format(name=network)}, or name the variant {variant_of(network)!r}",
        UserWarning,
        stacklevel=3,
    )


def _is_architecture(name: str) -> bool:
    """Whether a name names only a network: "R50x1", "resnetv2_50x1_bit"."""
    return re.fullmatch(r"r\d+x\d+|resnetv2_\d+x\d+_bitm?", name, re.IGNORECASE) is not None
