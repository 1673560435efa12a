"""Weights spread over several files by an index, as transformers writes large models."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch

from bit_backbone.checkpoints.errors import CheckpointError
from bit_backbone.checkpoints.files.base import TensorFile


class ShardedFile(TensorFile):
    """The shards that an index such as ``model.safetensors.index.json`` lists.

    Args:
        index: The index file.
        open_shard: Opens one file beside it.

    Raises:
        CheckpointError: The index is malformed or does not agree with the shards.
    """

    kind = "shards"

    def __init__(self, index: Path, open_shard: Callable[[Path], TensorFile]) -> None:
        self.origin = str(index)
        self._where = read_weight_map(index)
        self._shards: dict[str, TensorFile] = {}
        try:
            for name in dict.fromkeys(self._where.values()):
                shard = index.parent / name
                if not shard.is_file():
                    raise CheckpointError(
                        f"{index} lists {name}, which is not in its folder: fetch the missing shard"
                    )
                self._shards[name] = open_shard(shard)
            self.specs = {
                tensor: spec
                for name, shard_file in self._shards.items()
                for tensor, spec in shard_file.specs.items()
            }
            strays = sorted(
                tensor
                for tensor, name in self._where.items()
                if tensor not in self._shards[name].specs
            )
            if strays:
                raise CheckpointError(
                    f"{index} and its shards disagree: {strays[0]!r} is not in "
                    f"{self._where[strays[0]]} ({len(strays)} such tensors)"
                )
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Closes every shard."""
        for shard in self._shards.values():
            shard.close()

    def read(self, name: str) -> torch.Tensor:
        """Returns one tensor from the shard that holds it."""
        return next(s for s in self._shards.values() if name in s.specs).read(name)


def read_weight_map(index: Path) -> dict[str, str]:
    """Returns the file name of each tensor that an index lists.

    Raises:
        CheckpointError: Not an index, or one that points out of its folder.
    """
    try:
        weight_map = json.loads(index.read_text("utf-8"))["weight_map"]
        files = set(weight_map.values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f'{index} must be a JSON index with a "weight_map" from tensors to files ({error!r})'
        ) from error
    for name in files:
        if not isinstance(name, str) or Path(name).name != name:
            raise CheckpointError(
                f"{index} must list files of its own folder by their plain names, got {name!r}"
            )
    return weight_map
