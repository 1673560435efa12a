"""The file preprocessor_config.json: where there is none, and what may be in it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bit_backbone.preprocessing import settings

FILE_NAME = "preprocessor_config.json"
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


def refuse_unknown(values: Mapping[str, Any]) -> None:
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
