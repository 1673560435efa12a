"""The file preprocessor_config.json: where there is none, and what may be in it instead."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bit_backbone.preprocessing import settings
from bit_backbone.utils.files import read_json
from bit_backbone.utils.saved_settings import read

FILE_NAME = "preprocessor_config.json"
TIMM_FILE_NAME = "config.json"
# What timm takes where its file says nothing: timm.data.resolve_data_config of timm 1.0.
_TIMM_CROP_SHARE = 0.875
_TIMM_MEAN, _TIMM_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# What transformers writes beside the settings, and what of it changes nothing.
_BOOKKEEPING = frozenset(
    ("image_processor_type", "feature_extractor_type", "processor_class", "use_fast")
)


def has_preset_only(name_or_path: str | os.PathLike[str]) -> bool:
    """Whether this is a published checkpoint that comes without a preprocessor_config.json."""
    from bit_backbone.checkpoints import published

    if Path(name_or_path).exists() or not isinstance(name_or_path, str):
        return False
    entry = published.find(name_or_path)
    return entry is not None and entry.format != "transformers"


def reject_unknown(values: Mapping[str, Any]) -> None:
    """Checks that the file holds settings of this processor, and that what else it holds is off.

    Raises:
        ValueError: There is a key that is neither null nor false: to ignore it might change the
            pixels.
    """
    unknown = {
        key: value
        for key, value in values.items()
        if key not in settings.NAMES and key not in _BOOKKEEPING and value
    }
    if unknown:
        raise ValueError(
            f"the settings of a BiT image processor are {', '.join(settings.NAMES)}; "
            f"got also {unknown}: remove them if the result does not depend on them"
        )


def read_settings(name_or_path: str | os.PathLike[str], **hub_options: Any) -> dict[str, Any]:
    """Reads the settings of a folder, a file or a repository.

    Raises:
        ValueError: There are none, or none that can be followed.
    """
    try:
        return read(name_or_path, FILE_NAME, "from_preset", **hub_options)[1]
    except ValueError:
        if Path(name_or_path).is_file():
            raise
        try:
            path, values = read(name_or_path, TIMM_FILE_NAME, "from_preset", **hub_options)
        except ValueError:
            values = {}
        if "pretrained_cfg" not in values:
            raise
    return timm_settings(values["pretrained_cfg"], str(path))


def has_timm_settings(folder: Path) -> bool:
    """Whether a folder says in timm's way how its images are prepared."""
    path = folder / TIMM_FILE_NAME
    return path.is_file() and "pretrained_cfg" in read_json(path)


def timm_settings(values: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """Returns the settings that timm's evaluation computes with.

    Args:
        values: ``pretrained_cfg`` of timm's config.json.
        origin: The file, for messages.

    Raises:
        ValueError: Something in it is malformed, or no setting of this processor.
    """
    try:
        channels, height, width = values["input_size"]
        share = values.get("crop_pct") or _TIMM_CROP_SHARE
        scaled = math.floor(height / share), math.floor(width / share)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ValueError(
            f"pretrained_cfg of {origin} needs an input_size [channels, height, width] and a "
            f"crop_pct above 0, got {values.get('input_size')!r} and {values.get('crop_pct')!r}"
        ) from error
    mode = values.get("crop_mode") or "center"
    sizes: dict[str, Any] = {"squash": {"height": scaled[0], "width": scaled[1]}}
    if scaled[0] == scaled[1]:
        sizes["center"] = {"shortest_edge": scaled[0]}
    if mode not in sizes:
        raise ValueError(
            f"the crop_mode of {origin} is one of {', '.join(sizes)} for an image of {height} x "
            f"{width}, got {mode!r}: give the settings yourself"
        )
    return {
        "size": sizes[mode],
        "crop_size": {"height": height, "width": width},
        "crop_rounding": "even",
        "resample": values.get("interpolation") or "bicubic",
        "image_mean": list(values.get("mean") or _TIMM_MEAN),
        "image_std": list(values.get("std") or _TIMM_STD),
        "do_convert_rgb": channels == len(_TIMM_MEAN),
    }
