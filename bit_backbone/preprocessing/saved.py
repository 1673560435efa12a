"""Where a preprocessor_config.json is, and where there is none."""

from __future__ import annotations

import os
from pathlib import Path

FILE_NAME = "preprocessor_config.json"


def has_preset_only(name_or_path: str | os.PathLike[str]) -> bool:
    """Whether this is a published checkpoint that comes without a preprocessor_config.json."""
    from bit_backbone.checkpoints import published

    if Path(name_or_path).exists() or not isinstance(name_or_path, str):
        return False
    entry = published.find(name_or_path)
    return entry is not None and entry.format != "transformers"
