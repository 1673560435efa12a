"""What may be given as a checkpoint, and where it is on this machine."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from bit_backbone.checkpoints import fetching, published
from bit_backbone.checkpoints.checkpoint import Checkpoint
from bit_backbone.checkpoints.errors import CheckpointError
from bit_backbone.checkpoints.files import (
    TensorFile,
    TreeFile,
    open_file,
    open_folder,
)


@dataclass(frozen=True)
class Source:
    """A checkpoint and one of the networks in it.

    Attributes:
        path: A file, a folder, a published name or "owner/name" on the Hugging Face Hub.
        part: The keys that lead to the network, such as "state_dict_ema". None takes the model's
            own, by the order in ``bit_backbone.checkpoints.parts``.
    """

    path: str | os.PathLike[str]
    part: str | None = None


SourceLike: TypeAlias = str | os.PathLike[str] | Source | Mapping[str, Any]

CONFIG_FILE = "config.json"
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_FILE_SUFFIXES = (".npz", ".pth", ".pt", ".bin", ".safetensors", ".pkl", ".json", ".tar")


class Place(ABC):
    """Somewhere a checkpoint is. Asking for its weights or configuration fetches them."""

    @abstractmethod
    def open(self) -> TensorFile:
        """Opens the weights."""

    def config(self) -> Path | None:
        """Returns the config.json that belongs to the weights, or None where there is none."""
        return None


@dataclass(frozen=True)
class LocalFile(Place):
    """A file on this machine."""

    path: Path

    def open(self) -> TensorFile:
        """Opens the file."""
        return open_file(self.path)


@dataclass(frozen=True)
class LocalFolder(Place):
    """A folder that transformers, timm or this package saved."""

    path: Path

    def open(self) -> TensorFile:
        """Opens the folder's weights."""
        return open_folder(self.path)

    def config(self) -> Path | None:
        """Returns the folder's config.json.

        Raises:
            CheckpointError: There is none.
        """
        path = self.path / CONFIG_FILE
        if not path.is_file():
            raise CheckpointError(
                f"{self.path} must hold a {CONFIG_FILE} beside its weights; without one, pass the "
                "weights' file, or build the model and load the folder into it"
            )
        return path


@dataclass(frozen=True)
class InBucket(Place):
    """An official .npz."""

    entry: published.PublishedCheckpoint

    def open(self) -> TensorFile:
        """Opens the file; downloads it the first time."""
        return open_file(fetching.fetch_from_bucket(self.entry))


@dataclass(frozen=True)
class OnHub(Place):
    """A repository on the Hugging Face Hub."""

    repo: str
    revision: str | None = None

    def open(self) -> TensorFile:
        """Opens the weights; downloads them the first time."""
        return open_file(fetching.fetch_weights_from_hub(self.repo, self.revision))

    def config(self) -> Path | None:
        """Returns the repository's config.json; downloads it the first time.

        Raises:
            CheckpointError: It has none.
        """
        path = fetching.fetch_from_hub(self.repo, CONFIG_FILE, self.revision)
        if path is None:
            raise CheckpointError(f"{self.repo} on the Hugging Face Hub has no {CONFIG_FILE}")
        return path


def locate(name: str | os.PathLike[str], revision: str | None = None) -> Place:
    """Returns where a checkpoint is: on this machine, else in the catalog, else on the Hub.

    Args:
        name: A file, a folder, a published name, or a repository on the Hub ("owner/name").
        revision: Branch, tag or commit, on the Hub.

    Raises:
        CheckpointError: The name is none of these.
    """
    path, text = Path(name), os.fspath(name)
    if text and path.exists():
        return LocalFolder(path) if path.is_dir() else LocalFile(path)
    entry = published.find(text) if isinstance(name, str) else None
    if entry is not None and entry.source == "bucket":
        return InBucket(entry)
    if entry is not None:
        return OnHub(entry.location, revision)
    looks_like_file = not isinstance(name, str) or text.lower().endswith(_FILE_SUFFIXES)
    if not looks_like_file and _HUB_ID.fullmatch(text):
        return OnHub(text, revision)
    close = " or ".join(map(repr, published.closest(text)))
    raise CheckpointError(
        f"a checkpoint is a file, a folder, a published name or owner/name on the Hugging Face "
        f"Hub; {text!r} is none of them"
        + (f": did you mean {close}?" if close else "; `bit-backbone checkpoints` lists the names")
    )


def split(
    source: SourceLike, part: str | None = None
) -> tuple[str | os.PathLike[str] | Mapping[str, Any], str | None]:
    """Returns the place of a source and the part to take; ``part`` takes precedence."""
    if isinstance(source, Source):
        return source.path, part or source.part
    return source, part


def open_checkpoint(
    source: SourceLike, revision: str | None = None, *, part: str | None = None
) -> Checkpoint:
    """Opens any source, fetching it first if it is a name.

    Args:
        source: A name, a path, a ``Source``, or a dict of tensors, or of dicts.
        revision: Branch, tag or commit, on the Hub.
        part: The network to take from a source with several; None takes that of the ``Source``.

    Raises:
        CheckpointError: It cannot be found, fetched or read, or holds no BiT network.
    """
    source, part = split(source, part)
    if isinstance(source, Mapping):
        file: TensorFile = TreeFile(source, "the given dict", "dict")
    elif isinstance(source, str | os.PathLike):
        file = locate(source, revision).open()
    else:
        raise CheckpointError(
            "a checkpoint is a name, a path, a Source or a dict of tensors, got "
            f"{type(source).__name__}; of a module pass its state_dict()"
        )
    return Checkpoint(file, part)
