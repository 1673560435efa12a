"""Records in one array of bytes that loader processes share.

A forked process copies each page of memory that it writes to. Reading a Python object changes its
reference count, which is a write: every worker would soon hold a copy of all annotations.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Generic, TypeVar, overload

import numpy as np

Record = TypeVar("Record")


class Packed(Sequence[Record], Generic[Record]):
    """A sequence of plain values; each item is unpacked when it is read.

    Args:
        records: Lists, dicts, numbers and strings.
    """

    def __init__(self, records: Iterable[Record]) -> None:
        parts = [pickle.dumps(record, protocol=5) for record in records]
        self._bytes = np.frombuffer(b"".join(parts), np.uint8)
        self._ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
        self._order = np.arange(len(parts))

    def __len__(self) -> int:
        return len(self._order)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = self._order[index]
        begin = self._ends[place - 1] if place else 0
        return pickle.loads(self._bytes[begin : self._ends[place]].data)

    def without(self, indices: Collection[int]) -> Packed[Record]:
        """Returns the sequence without some of its items; both share the bytes."""
        rest = copy.copy(self)
        rest._order = np.delete(self._order, sorted(indices))
        return rest
