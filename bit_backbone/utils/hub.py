"""Files of the Hugging Face Hub, in huggingface_hub's cache."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["HubError", "NotCachedError", "hub_file"]


class HubError(ValueError):
    """A file of the Hub is not available; the message gives the reason but no remedy."""


class NotCachedError(HubError):
    """The file is not on this machine, and HF_HUB_OFFLINE forbids downloads."""


def hub_file(repo: str, name: str, **options: Any) -> Path | None:
    """Returns the local path of a repository's file, or None if the repository lacks it.

    Args:
        repo: The repository, such as "google/bit-50".
        name: Name of the file in it.
        **options: Arguments of ``huggingface_hub.hf_hub_download``.

    Raises:
        HubError: The repository or revision does not exist or cannot be reached.
    """
    # Importing huggingface_hub takes a quarter of a second.
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub import errors as theirs

    try:
        with _quiet_retries():
            return Path(hf_hub_download(repo, name, **options))
    except theirs.LocalEntryNotFoundError as error:
        missing = f"{name} of {repo} is not on this machine and"
        if constants.HF_HUB_OFFLINE:
            raise NotCachedError(f"{missing} HF_HUB_OFFLINE is set") from error
        raise HubError(f"{missing} the Hub cannot be reached") from error
    except theirs.EntryNotFoundError:
        return None
    except (theirs.HfHubHTTPError, theirs.HFValidationError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise HubError(f"{name} of {repo} could not be fetched ({reason})") from error


@contextmanager
def _quiet_retries() -> Iterator[None]:
    """Hides two warnings for each of five retries; the error contains their content."""
    logger = logging.getLogger("huggingface_hub.utils._http")

    def is_error(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR

    logger.addFilter(is_error)  # this call's own; a level would be shared with other threads
    try:
        yield
    finally:
        logger.removeFilter(is_error)
