"""Reads the settings file of a saved model or processor."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from bit_backbone.utils.files import read_json
from bit_backbone.utils.hub import HubError, hub_file


def read(
    name_or_path: str | os.PathLike[str], file_name: str, instead: str, **hub_options: Any
) -> tuple[Path, dict[str, Any]]:
    """Returns a settings file, of a path, a folder or the Hub, and the JSON object in it.

    Args:
        name_or_path: A folder, the file itself, or a repository of the Hugging Face Hub.
        file_name: Name of the file in the folder or repository.
        instead: Where published settings are found, for the error message.
        **hub_options: Arguments of ``huggingface_hub.hf_hub_download``.

    Raises:
        ValueError: There is no such file, or it is not a JSON object; the message says where it
            was searched for.
    """
    path = _find(name_or_path, file_name, instead, **hub_options)
    try:
        return path, read_json(path)
    except ValueError as error:
        raise ValueError(
            f"the saved settings {file_name} cannot be read: {error}; {instead} has those of "
            "published weights"
        ) from error


def _find(
    name_or_path: str | os.PathLike[str], file_name: str, instead: str, **hub_options: Any
) -> Path:
    """Returns the given file, the one in a given folder, or one downloaded from the Hub."""
    path = Path(name_or_path)
    if path.is_dir():
        path = path / file_name
    if path.is_file():
        return path
    if path.is_absolute() or path.name == file_name:
        raise ValueError(
            f"saved settings must be in a file {file_name}, found none at {path}; {instead} has "
            "those of published weights"
        )
    return _download(str(name_or_path), file_name, instead, **hub_options)


def _download(repo: str, file_name: str, instead: str, **options: Any) -> Path:
    try:
        found = hub_file(repo, file_name, **options)
        reason = f"the repository has no {file_name}"
    except HubError as error:
        found, reason = None, str(error)
    if found is None:
        raise ValueError(
            f"{repo!r} is neither a folder nor a repository of the Hub that has {file_name}: "
            f"{reason}; {instead} has those of published weights"
        )
    return found
