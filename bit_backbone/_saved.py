"""Finding the file of settings that a saved model or processor has."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def find(
    name_or_path: str | os.PathLike[str], file_name: str, instead: str, **hub_options: Any
) -> Path:
    """Returns a file: the one given, that in a folder, or one downloaded from the Hub.

    Args:
        name_or_path: A folder, the file itself, or a repository of the Hugging Face Hub.
        file_name: Of the file in the folder or repository.
        instead: What has the published ones, for the message of the error.
        **hub_options: Arguments of ``huggingface_hub.hf_hub_download``.

    Raises:
        ValueError: There is none; the message says where it was looked for.
    """
    path = Path(name_or_path)
    if path.is_dir():
        path = path / file_name
    if path.is_file():
        return _json(path, file_name, instead)
    if path.is_absolute() or path.name == file_name:
        raise ValueError(
            f"saved settings are a file {file_name}, found none at {path}; {instead} has the "
            "published ones"
        )
    return _download(str(name_or_path), file_name, instead, **hub_options)


def _json(path: Path, file_name: str, instead: str) -> Path:
    if path.suffix not in ("", ".json"):  # the cache of the Hub keeps files under their hashes
        raise ValueError(
            f"saved settings are a file {file_name}, or its folder, got {path}; "
            f"{instead} has those of published weights"
        )
    return path


def _download(repository: str, file_name: str, instead: str, **options: Any) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repository, file_name, **options))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise ValueError(
            f"{repository!r} is neither a folder nor a repository of the Hub that has "
            f"{file_name} ({type(error).__name__}); {instead} has the published ones"
        ) from error
