"""Files of the Hugging Face Hub, in huggingface_hub's cache."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["HubError", "NotCachedError", "hub_file"]


class HubError(ValueError):
    """A file of the Hub cannot be had; the message says why, and not what to do."""


class NotCachedError(HubError):
    """The file is not on this machine, and HF_HUB_OFFLINE forbids to ask for it."""


def hub_file(repo: str, name: str, **options: Any) -> Path | None:
    """Returns one file of a repository on this machine, or None if the repository has none.

    Args:
        repo: Such as "google/bit-50".
        name: Of the file in it.
        **options: Arguments of ``huggingface_hub.hf_hub_download``.

    Raises:
        HubError: There is no such repository or revision, or no way to reach it.
    """
    # huggingface_hub takes a quarter of a second to import.
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
    """Hides two warnings for each of five retries: the error says what they say."""
    logger = logging.getLogger("huggingface_hub.utils._http")

    def is_error(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR

    logger.addFilter(is_error)  # of this call: a level would be that of other threads, too
    try:
        yield
    finally:
        logger.removeFilter(is_error)
