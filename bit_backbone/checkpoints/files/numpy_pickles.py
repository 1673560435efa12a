"""What stands in for numpy's own types while a pickle is read that somebody else has written.

numpy's ``dtype`` takes its flags and fields from the pickle as they are. A type that says it holds
Python objects, over bytes of the file, makes numpy follow these bytes as pointers when the array is
freed. So the file gets types of ours, which take the kind, the size and the order of numbers, and
numpy sees only types that it has made itself.
"""

from __future__ import annotations

import pickle
from typing import Any, NoReturn

import numpy as np

# Booleans, numbers and text: what numpy holds without a pointer.
_KINDS = "biufcSU"
_ORDERS = ("<", ">", "=", "|")


class ForbiddenError(pickle.UnpicklingError):
    """A pickle that asks for more than arrays of numbers."""


class PickledDtype:
    """Reads ``numpy.dtype``."""

    def __init__(self, code: Any, *_: Any) -> None:
        dtype = np.dtype(code) if isinstance(code, str) else None
        if dtype is None or dtype.kind not in _KINDS or dtype.subdtype is not None:
            raise ForbiddenError(f"it asks for the numpy.dtype {code!r}")
        self.numpy = dtype

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Takes the order of bytes, and no flags, fields or sizes."""
        if state[1] not in _ORDERS:
            raise ForbiddenError(f"it asks for a numpy.dtype of the byte order {state[1]!r}")
        self.numpy = self.numpy.newbyteorder(state[1])


class PickledArray:
    """Reads ``numpy.ndarray``.

    Attributes:
        numpy: The array; it shares the bytes that were read, as numpy's own reading does.
    """

    def __init__(self) -> None:
        self.numpy = np.ndarray((0,), np.uint8)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Takes shape, type, order of axes and bytes."""
        *version, shape, dtype, is_fortran, data = state
        made = np.ndarray((0,), _checked(dtype))
        made.__setstate__((*version, shape, _checked(dtype), is_fortran, data))
        self.numpy = made


class NdarrayName:
    """What the pickle calls ``numpy.ndarray``, only ever to pass it on."""

    def __new__(cls, *_: Any) -> NoReturn:
        """Refuses: called directly, it would take memory that the file does not fill."""
        raise ForbiddenError("it asks for a numpy.ndarray without content")


def _checked(dtype: Any) -> np.dtype[Any]:
    if not isinstance(dtype, PickledDtype):
        raise ForbiddenError(f"it asks for an array of {dtype!r}")
    return dtype.numpy


def _empty_array(kind: Any, shape: tuple[int, ...], _: Any) -> PickledArray:
    """What a pickled array starts from; its values follow in the file."""
    if kind is not NdarrayName or shape != (0,):
        raise ForbiddenError(f"it asks for an array of shape {shape}")
    return PickledArray()


def _array_of(data: Any, dtype: Any, shape: tuple[int, ...], order: Any) -> PickledArray:
    """What an array is pickled as from protocol 5 on."""
    made = PickledArray()
    made.numpy = np.frombuffer(data, _checked(dtype)).reshape(shape, order=order)
    return made


def _scalar(dtype: Any, data: Any) -> Any:
    """What numpy pickles a single value as."""
    data = data.encode("latin1") if isinstance(data, str) else data
    (value,) = np.frombuffer(data, _checked(dtype))
    return value


def _bytes_of(text: str, encoding: str) -> bytes:
    """What bytes are pickled as in protocols before 3."""
    if encoding != "latin1":
        raise ForbiddenError(f"it asks for the codec {encoding!r}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """What an array without values is pickled with in these protocols."""
    return b""


# What numpy pickles its values with, by the names in the file; numpy._core is its own from 2 on.
GLOBALS: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): NdarrayName,
    ("numpy", "dtype"): PickledDtype,
    ("_codecs", "encode"): _bytes_of,
    ("builtins", "bytes"): _no_bytes,
    ("__builtin__", "bytes"): _no_bytes,
    **{
        (f"{core}.{module}", name): reader
        for core in ("numpy.core", "numpy._core")
        for module, name, reader in (
            ("multiarray", "_reconstruct", _empty_array),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _array_of),
        )
    },
}
