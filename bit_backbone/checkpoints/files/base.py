"""What every kind of checkpoint file offers: its tensors' names, shapes and types, then each one.

Opening a file reads its headers and no weights, so that a file can be refused before gigabytes are
read, and only the tensors asked for are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

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


class TensorFile(Closing):
    """Named tensors, read one at a time; a context manager.

    Attributes:
        origin: Where the tensors come from, for messages: a path or a description.
        specs: Shape and type of each tensor, by name, in the file's order.
    """

    origin: str
    specs: Mapping[str, TensorSpec]

    @abstractmethod
    def read(self, name: str) -> torch.Tensor:
        """Returns one tensor, in memory that belongs to the caller.

        Raises:
            CheckpointError: The data are damaged.
        """


class TensorMapping(TensorFile):
    """Tensors that are in memory already.

    Args:
        tensors: The tensors by name.
        origin: Where they come from.
        owned: Whether nobody else holds them. Then each can be read once, and reading hands over
            its memory; otherwise reading copies.
    """

    def __init__(self, tensors: Mapping[str, torch.Tensor], origin: str, *, owned: bool) -> None:
        self.origin = origin
        self._tensors = dict(tensors)
        self._owned = owned
        self.specs = {
            name: TensorSpec(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
            for name, tensor in tensors.items()
        }

    def close(self) -> None:
        """Lets the tensors go."""
        self._tensors.clear()

    def read(self, name: str) -> torch.Tensor:
        """Returns one tensor; a second time only where the tensors are not owned."""
        if not self._owned:
            return self._tensors[name].detach().cpu().clone()
        tensor = self._tensors.pop(name).detach()
        # A slice of something larger would keep the whole alive.
        whole = tensor.untyped_storage().nbytes() == tensor.nbytes
        return tensor if whole else tensor.clone()
