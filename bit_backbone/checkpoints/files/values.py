"""What a pickle is read into: plain values, tensors that are not read yet, and inert stand-ins.

Nothing here does what the file says. A stand-in holds what the file would have called and with
what; a tensor holds where its numbers are, checked against the bytes that are there.
"""

from __future__ import annotations

import math
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from bit_backbone.checkpoints.errors import CheckpointError
from bit_backbone.checkpoints.files.base import TensorSpec

# numpy's types of numbers, as a pickle spells them; none of them holds a pointer.
NUMBERS = frozenset(["b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"])
_ORDERS = "<>=|"
MOST_VALUES = 2**40  # of one tensor, an axis of length 0 counted as 1: beyond all that is a weight
MOST_AXES = 16
LONGEST_NAME = 300  # characters


class PickleError(Exception):
    """A pickle that is damaged, or whose tensors are not what it says."""


class Name:
    """A class or function that the file names, and that nobody looks up."""

    __slots__ = ("module", "name")

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name

    def __str__(self) -> str:
        return f"{self.module[:LONGEST_NAME]}.{self.name[:LONGEST_NAME]}"


class Placeholder:
    """What stands for an object of a class that the reader does not know: inert, whatever it was.

    Attributes:
        called: What the file would have called to make it, or a word for that.
        arguments: With what.
        state: What it would have been given as its state.
        items: What it would have been given by key.
        elements: What it would have been given to append.
    """

    __slots__ = ("arguments", "called", "elements", "items", "state")

    def __init__(self, called: Any, arguments: Any = ()) -> None:
        self.called, self.arguments = called, arguments
        self.state: Any = None
        self.items: dict[Any, Any] = {}
        self.elements: list[Any] = []

    @property
    def name(self) -> str:
        """What it is called after: made when it is asked for, as a file can have long names."""
        known = isinstance(self.called, Name | str)
        return str(self.called)[:LONGEST_NAME] if known else f"a {type(self.called).__name__}"


class Leaf(ABC):
    """A tensor of a file or a dict, before anybody has asked for its values."""

    spec: TensorSpec

    @abstractmethod
    def read(self) -> torch.Tensor:
        """Returns it, in memory of its own.

        Raises:
            CheckpointError: Its data are damaged.
        """


class InMemory(Leaf):
    """A tensor that somebody else holds."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor = tensor
        self.spec = TensorSpec(tuple(tensor.shape), _name_of(tensor.dtype))

    def read(self) -> torch.Tensor:
        """Copies it."""
        return self._tensor.detach().cpu().clone()


class Storages(ABC):
    """The blocks of bytes of one file, each under a key.

    Attributes:
        origin: The file, for messages.
        swapped: Whether the bytes of a number are in the other order than this machine's.
    """

    origin: str
    swapped = False
    _lent: tuple[str, torch.Tensor] | None = None

    @abstractmethod
    def nbytes(self, key: str) -> int:
        """Returns the size of a block, without reading it.

        Raises:
            PickleError: There is none of that key.
        """

    @abstractmethod
    def read(self, key: str) -> torch.Tensor:
        """Returns a block as uint8, in memory of its own.

        Raises:
            CheckpointError: Its data are damaged.
        """

    def lend(self, key: str) -> torch.Tensor:
        """Returns a block to copy a part from, and keeps it until another is lent."""
        if self._lent is None or self._lent[0] != key:
            self._lent = None
            self._lent = key, self.read(key)
        return self._lent[1]


@dataclass(frozen=True, eq=False)
class Storage:
    """A part of a block, as the numbers of one type.

    Attributes:
        storages: Where the block is.
        key: Of the block.
        dtype: Of the numbers; None where the tensors say it.
        count: How many; of bytes where there is no type.
        first: The number that it starts with.
    """

    storages: Storages
    key: str
    dtype: torch.dtype | None
    count: int
    first: int = 0


class StoredTensor(Leaf):
    """A tensor over a storage, which is read when the tensor is.

    Raises:
        PickleError: It reaches beyond its storage.
    """

    def __init__(
        self, storage: Storage, dtype: torch.dtype, offset: int, size: Any, stride: Any
    ) -> None:
        self._storage, self._dtype = storage, dtype
        self._offset, self._size, self._stride = offset, tuple(size), tuple(stride)
        self.spec = TensorSpec(self._size, _name_of(dtype))
        self._check()

    def _check(self) -> None:
        numbers = (self._offset, *self._size, *self._stride)
        sane = all(is_count(number) for number in numbers)
        if not sane or len(self._size) != len(self._stride) or len(self._size) > MOST_AXES:
            size, stride = shown(self._size), shown(self._stride)
            raise PickleError(f"a tensor has the shape {size} and strides {stride}")
        steps = zip(self._size, self._stride, strict=True)
        last = sum((size - 1) * stride for size, stride in steps)
        end = (self._offset + last + 1) * self._dtype.itemsize if 0 not in self._size else 0
        block = self._storage
        width = 1 if block.dtype is None else block.dtype.itemsize
        if end > block.count * width or math.prod(max(n, 1) for n in self._size) > MOST_VALUES:
            raise PickleError(
                f"a tensor of shape {list(self._size)} reaches beyond its storage {block.key!r} of "
                f"{block.count * width} bytes"
            )

    @property
    def overlaps(self) -> bool:
        """Whether it shows values of its storage more than once, as expanded tensors do."""
        width = 1 if self._storage.dtype is None else self._storage.dtype.itemsize
        return math.prod(self._size) * self._dtype.itemsize > self._storage.count * width

    def read(self) -> torch.Tensor:
        """Reads the storage, and copies the tensor out of it where it is a part."""
        block, width = self._storage, self._dtype.itemsize
        whole = math.prod(self._size) * width == block.storages.nbytes(block.key)
        read = block.storages.read if whole else block.storages.lend
        start = block.first * (1 if block.dtype is None else block.dtype.itemsize)
        stored = read(block.key)[start:]
        stored = stored[: stored.numel() // width * width]
        if block.storages.swapped:
            stored = stored.view(-1, width).flip(-1).reshape(-1)
        numbers = stored.view(self._dtype)
        place = numbers.storage_offset() + self._offset
        tensor = numbers.as_strided(self._size, self._stride, place)
        return tensor if whole else tensor.clone()


@dataclass
class EncodedText:
    """Bytes that the file holds as text, one character each."""

    text: str

    def __len__(self) -> int:
        return len(self.text)


def bytes_of(data: Any) -> Any:
    """Returns the bytes of whatever a pickle holds numpy's data as.

    Raises:
        PickleError: It holds something else.
    """
    text = data.text if isinstance(data, EncodedText) else data
    if isinstance(text, str):
        try:
            return text.encode("latin1")
        except UnicodeEncodeError as error:
            raise PickleError("an array has data that are no bytes") from error
    if not isinstance(text, bytes | bytearray):
        raise PickleError(f"an array has data of the type {type(data).__name__}")
    return text


class PickledDtype:
    """A type of numpy's numbers, with the order of bytes and without flags, fields or sizes."""

    def __init__(self, code: str) -> None:
        self._code, self._order = code, "="

    def take_state(self, state: Any) -> None:
        """Takes the order of bytes."""
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in tuple(_ORDERS):
            raise PickleError("a numpy.dtype has no order of bytes")
        self._order = state[1]

    @property
    def numpy(self) -> np.dtype[Any]:
        """The type, made here."""
        return np.dtype(self._code).newbyteorder(self._order)  # type: ignore[arg-type]


@dataclass(eq=False)
class PickledArray(Leaf):
    """A numpy array whose bytes stand in the pickle itself.

    Attributes:
        shape: Its shape, once the file has given it.
        dtype: Its type; None for one that holds anything but numbers.
        by_columns: Whether the first axis runs fastest.
        data: Its bytes, as they were read.
    """

    shape: tuple[int, ...] = (0,)
    dtype: PickledDtype | None = None
    by_columns: bool = False
    data: Any = field(default=b"", repr=False)

    def take_state(self, state: Any) -> None:
        """Takes shape, type, order of axes and bytes."""
        if not isinstance(state, tuple) or len(state) < 4:
            raise PickleError("a numpy.ndarray has no content")
        *_, shape, dtype, by_columns, data = state
        if isinstance(dtype, PickledDtype):
            self.fill(shape, dtype, bool(by_columns), data)

    def fill(self, shape: Any, dtype: PickledDtype, by_columns: bool, data: Any) -> None:
        """Takes the content.

        Raises:
            PickleError: The bytes are more or fewer than the shape needs.
        """
        sized = isinstance(data, bytes | bytearray | str | EncodedText)
        numbers = isinstance(shape, tuple) and len(shape) <= MOST_AXES and all(map(is_count, shape))
        if not sized or not numbers or math.prod(shape) * dtype.numpy.itemsize != len(data):
            held = f"{len(data)} bytes" if sized else f"a {type(data).__name__}"
            raise PickleError(
                f"an array of shape {shown(shape)} and type {dtype.numpy} holds {held}"
            )
        self.shape, self.dtype, self.by_columns, self.data = shape, dtype, by_columns, data

    @property
    def spec(self) -> TensorSpec:  # type: ignore[override]
        """Its shape and type."""
        assert self.dtype is not None
        return TensorSpec(self.shape, self.dtype.numpy.name)

    def read(self) -> torch.Tensor:
        """Copies it out of the pickle's bytes."""
        assert self.dtype is not None
        try:
            flat = np.frombuffer(bytes_of(self.data), self.dtype.numpy)
        except PickleError as error:
            raise CheckpointError(str(error)) from error
        array = flat.reshape(self.shape, order="F" if self.by_columns else "C")
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C", copy=True))


def is_count(value: Any) -> bool:
    """Whether a value is a whole number of at least 0 that an address can have."""
    return type(value) is int and 0 <= value <= sys.maxsize


def shown(shape: Any) -> str:
    """Returns what a file gives as a shape, if that is short and not nested: text is as long."""
    numbers = isinstance(shape, tuple) and len(shape) <= MOST_AXES and all(map(is_short, shape))
    return str(shape) if numbers else f"of a {type(shape).__name__}"


def is_short(number: Any) -> bool:
    """Whether a value is a number of 64 bits at most."""
    return type(number) is float or (type(number) is int and number.bit_length() <= 64)


def _name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
