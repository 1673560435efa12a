"""What every kind of checkpoint file offers: its tensors' names, shapes and types, then each one.

Opening a file reads its headers and no weights, so that a file can be rejected before gigabytes are
read, and only the tensors asked for are.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeAlias

import torch

# Types that a network's weights can have, under the names numpy and torch share.
FLOAT_DTYPES = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
}


@dataclass(frozen=True)
class TensorSpec:
    """What a file says of a tensor.

    Attributes:
        shape: Its shape.
        dtype: Its type, as numpy and torch call it: "float32".
    """

    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        """Size of its values."""
        known = getattr(torch, self.dtype, None)
        itemsize = known.itemsize if isinstance(known, torch.dtype) else 0
        return math.prod(self.shape) * itemsize


class Closing(ABC):
    """A context manager that closes itself."""

    @abstractmethod
    def close(self) -> None:
        """Closes whatever is open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


# The keys that lead to a dict inside of others: () for the outermost.
GroupPath: TypeAlias = tuple[str, ...]


class TensorFile(Closing):
    """Named tensors, read one at a time; a context manager.

    Attributes:
        origin: Where the tensors come from, for messages: a path or a description.
        kind: What kind of file it is, in a word or two.
        specs: Shape and type of each tensor, by name, in the file's order.
    """

    origin: str
    kind: str
    specs: Mapping[str, TensorSpec]

    @property
    def groups(self) -> Mapping[GroupPath, Mapping[str, TensorSpec]]:
        """The same for every dict of a file that nests them, by the keys that lead to it."""
        return {(): self.specs}

    def select(self, group: GroupPath) -> None:
        """Makes one of the groups the one that ``specs`` and ``read`` are about."""

    @property
    def described(self) -> str:
        """What the file holds, for messages about files without tensors."""
        return f"{len(self.specs)} tensors"

    @abstractmethod
    def read(self, name: str) -> torch.Tensor:
        """Returns one tensor, in memory that belongs to the caller.

        Raises:
            CheckpointError: The data are damaged.
        """
