"""Fetching published files: the official bucket through torch.hub, the rest through the Hub.

Both keep their files where the rest of the machine does (torch.hub's and huggingface_hub's caches),
show a progress bar, and leave nothing half-downloaded under a final name.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import torch.hub
from huggingface_hub import constants
from huggingface_hub.utils import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)

from bit_backbone.checkpoints.errors import CheckpointError, NotDownloadedError
from bit_backbone.checkpoints.files import WEIGHT_FILES, open_file
from bit_backbone.checkpoints.files.sharded import read_weight_map
from bit_backbone.checkpoints.published import BUCKET, PublishedCheckpoint
from bit_backbone.utils.files import atomic_path
from bit_backbone.utils.hub import HubError, NotCachedError, hub_file

_BARS: ContextVar[bool] = ContextVar("progress bars", default=True)


@contextmanager
def progress_bars(shown: bool) -> Iterator[None]:
    """Shows the progress of downloads inside, on a terminal, or not even there."""
    token = _BARS.set(shown)
    hide_the_hubs = not (shown or are_progress_bars_disabled())
    if hide_the_hubs:
        disable_progress_bars()
    try:
        yield
    finally:
        _BARS.reset(token)
        if hide_the_hubs:
            enable_progress_bars()


def fetch_from_bucket(entry: PublishedCheckpoint) -> Path:
    """Returns an official .npz on this machine, downloaded the first time.

    Raises:
        CheckpointError: It is neither here nor can it be fetched; the message says where to put it.
    """
    target = Path(torch.hub.get_dir(), "checkpoints", entry.location.rsplit("/", 1)[-1])
    if target.is_file():
        return target
    by_hand = f"download {entry.location} by hand and save it as {target}"
    if constants.HF_HUB_OFFLINE:
        raise NotDownloadedError(
            f"{entry.name} is not on this machine and HF_HUB_OFFLINE is set: unset it, or {by_hand}"
        )
    try:
        _download(entry.location, target)
    except (OSError, CheckpointError) as error:
        raise CheckpointError(f"{entry.name} could not be fetched ({error}): {by_hand}") from error
    return target


def _download(url: str, target: Path) -> None:
    shown = _BARS.get() and sys.stderr.isatty()
    with atomic_path(target) as path:
        torch.hub.download_url_to_file(url, str(path), progress=shown)
        # torch.hub takes a connection that drops for the end of the file.
        open_file(path).close()


def fetch_weights_from_hub(repo: str, revision: str | None = None) -> Path:
    """Returns the weights of a Hub repository on this machine: a file, or the index of shards.

    Raises:
        CheckpointError: No such repository, no weights in it, or no way to reach it.
    """
    absent = None
    for name in WEIGHT_FILES:
        try:
            path = fetch_from_hub(repo, name, revision)
        except NotDownloadedError as error:
            # Offline, only what is in the cache exists: another of the names may be.
            absent = absent or error
            continue
        if path is not None:
            _fetch_shards(repo, path, revision)
            return path
    raise absent or CheckpointError(
        f"{repo} on the Hugging Face Hub must hold one of {', '.join(WEIGHT_FILES)}; it holds none"
        f"{_or_by_hand(repo)}"
    )


def _fetch_shards(repo: str, path: Path, revision: str | None) -> None:
    if not path.name.endswith(".index.json"):
        return
    for shard in sorted(set(read_weight_map(path).values())):
        if fetch_from_hub(repo, shard, revision) is None:
            raise CheckpointError(f"{repo} lists the shard {shard}, but does not contain it")


def fetch_from_hub(repo: str, name: str, revision: str | None = None) -> Path | None:
    """Returns one file of a Hub repository on this machine, or None if it has no such file.

    Raises:
        CheckpointError: No such repository or revision, or no way to reach it.
    """
    try:
        return hub_file(repo, name, revision=revision)
    except HubError as error:
        kind = NotDownloadedError if isinstance(error, NotCachedError) else CheckpointError
        raise kind(f"{error}{_or_by_hand(repo)}") from error


def _or_by_hand(repo: str) -> str:
    return (
        f": check the name, or download config.json and {WEIGHT_FILES[0]} from "
        f"{constants.ENDPOINT}/{repo} by hand into a folder and pass that folder (the official "
        f"files lie under {BUCKET})"
    )
