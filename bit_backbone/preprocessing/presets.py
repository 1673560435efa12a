"""The preprocessing that each family of BiT checkpoints was evaluated with.

Sources: ``bit_pytorch/train.py`` and ``bit_hyperrule.py`` of google-research/big_transfer for the
official ones (images smaller than 96x96 pixels are fine-tuned at 128), ``default_cfgs`` in timm's
``resnetv2.py`` for the others. All of them normalise with mean and standard deviation 0.5.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from PIL import Image

from bit_backbone.checkpoints import published

_BILINEAR = Image.Resampling.BILINEAR
_BICUBIC = Image.Resampling.BICUBIC


def _squash(size: int) -> dict[str, Any]:
    """Resize to a square whatever the aspect ratio: nothing is cut off."""
    square = {"height": size, "width": size}
    return {"size": square, "resample": _BILINEAR, "do_center_crop": False, "crop_size": square}


def _short_side(short_edge: int, crop: int, resample: Image.Resampling) -> dict[str, Any]:
    """Resize the shorter side, then cut out the central square."""
    return {
        "size": {"shortest_edge": short_edge},
        "resample": resample,
        "do_center_crop": True,
        "crop_size": {"height": crop, "width": crop},
        "crop_rounding": "even",
    }


PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "official": _squash(480),
        "official_small": _squash(128),
        "timm_in21k": _short_side(256, 224, _BILINEAR),
        "timm_448": _short_side(448, 448, _BILINEAR),
        "timm_480": _short_side(480, 480, _BILINEAR),
        "timm_distilled": _short_side(256, 224, _BICUBIC),
        "timm_teacher_384": _short_side(384, 384, _BICUBIC),
        # Nobody publishes the transform of R50x1_160: that of 224, in proportion.
        "distilled_160": _short_side(183, 160, _BICUBIC),
    }
)
"""Preset name -> the arguments of ``BitImageProcessor`` in which it differs from the defaults."""


def find(name: str) -> Mapping[str, Any]:
    """Returns the settings of a preset, or of the preset that a published checkpoint names.

    Raises:
        ValueError: The name is neither; the message lists the presets and the closest names.
    """
    entry = None if name in PRESETS else published.find(name)
    preset = name if entry is None else entry.preset
    if entry is not None and entry.format == "transformers":
        return {**PRESETS[preset], "crop_rounding": "down"}
    if preset in PRESETS:
        return PRESETS[preset]
    close = published.closest(name)
    hint = f"; did you mean the checkpoint {' or '.join(map(repr, close))}?" if close else ""
    raise ValueError(
        f"{name!r} is neither a preset ({', '.join(PRESETS)}) nor a published checkpoint{hint}"
    )
