"""Finding and reading preprocessor_config.json."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

FILE_NAME = "preprocessor_config.json"


def has_preset_only(name_or_path: str | os.PathLike[str]) -> bool:
    """Whether this is a published checkpoint that comes without a preprocessor_config.json."""
    from bit_backbone.checkpoints import published

    if Path(name_or_path).exists() or not isinstance(name_or_path, str):
        return False
    entry = published.find(name_or_path)
    return entry is not None and entry.format != "transformers"


def find(name_or_path: str | os.PathLike[str], **hub_options: Any) -> Path:
    """Returns the file of a saved processor: given, in a folder, or downloaded from the Hub.

    Raises:
        ValueError: There is none; the message says where it was looked for.
    """
    path = Path(name_or_path)
    if path.is_dir():
        path = path / FILE_NAME
    if path.is_file():
        return path
    if path.is_absolute() or path.name == FILE_NAME:
        raise ValueError(f"a saved processor is a file {FILE_NAME}, found none at {path}")
    return _download(str(name_or_path), **hub_options)


def _download(repository: str, **options: Any) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repository, FILE_NAME, **options))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise ValueError(
            f"{repository!r} is neither a folder nor a repository of the Hub that has "
            f"{FILE_NAME} ({type(error).__name__}); from_preset has the published ones"
        ) from error
