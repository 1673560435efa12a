"""The few names in a pickle that mean something to its reader, and what is made of each.

Each maker is a function of this module; none of those that the names belong to is imported for the
file or called. A maker that cannot use its arguments returns None, and a placeholder takes its
place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from bit_backbone.checkpoints.files.values import (
    MOST_AXES,
    NUMBERS,
    EncodedText,
    Name,
    PickledArray,
    PickledDtype,
    PickleError,
    Storage,
    StoredTensor,
    bytes_of,
    is_count,
)

_STORED_TYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexDoubleStorage": torch.complex128,
    "ComplexFloatStorage": torch.complex64,
}
UNTYPED = "UntypedStorage"
# Every type of torch's, under the name that a file has for it: values, not looked up for a file.
VALUES: Mapping[tuple[str, str], Any] = {
    ("torch", str(value).removeprefix("torch.")): value
    for value in vars(torch).values()
    if isinstance(value, torch.dtype)
}
_DEVICE = re.compile(r"cpu|cuda|mps|xpu|xla|meta|hpu|npu")
_MOST_TEXT = 64  # characters of a single numpy value


def stored_type(name: Any) -> tuple[bool, torch.dtype | None]:
    """Returns whether a name is that of a storage, and the type of its numbers, if it has one."""
    if not isinstance(name, Name) or not name.module.startswith("torch"):
        return False, None
    if name.name == UNTYPED:
        return True, None
    return name.name in _STORED_TYPES, _STORED_TYPES.get(name.name)


def _dict(*content: Any) -> dict[Any, Any] | None:
    """A dict that is filled later; whoever asks for one with content gets a placeholder."""
    filled = [part for part in content if isinstance(part, list | dict | tuple) and part]
    return None if filled else {}


def _counter(content: Any = None) -> Any:
    return content if isinstance(content, dict) else {}


def _sequence(content: Any = ()) -> Any:
    return content if isinstance(content, list | tuple | set) else None


def _size(content: Any = ()) -> torch.Size | None:
    short = isinstance(content, tuple) and len(content) <= MOST_AXES  # it is copied
    return torch.Size(content) if short and all(map(is_count, content)) else None


def _device(kind: Any = None, index: Any = None) -> torch.device | None:
    if not isinstance(kind, str) or not _DEVICE.fullmatch(kind):
        return None
    return torch.device(kind, index) if type(index) is int and 0 <= index < 128 else None


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Any:
    """``_rebuild_tensor`` and ``_rebuild_tensor_v2``, whose last argument may be flags."""
    flags = rest[2] if len(rest) > 2 else None
    dtype = storage.dtype if isinstance(storage, Storage) else None
    return None if dtype is None else _view(storage, dtype, offset, size, stride, flags)


def _typed_tensor(
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    _: Any,
    __: Any,
    dtype: Any,
    flags: Any = None,
) -> Any:
    """``_rebuild_tensor_v3``: the type stands with the tensor."""
    if not isinstance(storage, Storage) or not isinstance(dtype, torch.dtype):
        return None
    if storage.dtype not in (None, dtype):
        return None
    return _view(storage, dtype, offset, size, stride, flags)


def _view(
    storage: Storage, dtype: torch.dtype, offset: Any, size: Any, stride: Any, flags: Any
) -> Any:
    if not isinstance(size, tuple) or not isinstance(stride, tuple):
        return None
    tensor = StoredTensor(storage, dtype, offset, size, stride)
    negated = isinstance(flags, dict) and any(flags.values())  # its numbers are not what is stored
    return None if negated or tensor.overlaps else tensor


def _same(data: Any, *_: Any) -> Any:
    """What wraps a tensor that it has been given: a Parameter, a tensor of another device."""
    return data if isinstance(data, StoredTensor | PickledArray) else None


def _of_type(function: Any, _: Any, arguments: Any, *__: Any) -> Any:
    """What a subclass of a tensor is pickled as: how its tensor was, with the class beside it."""
    key = (function.module, function.name) if isinstance(function, Name) else None
    maker = MAKERS.get(key) if key else None
    is_one = maker in (_tensor, _typed_tensor, _same) and isinstance(arguments, tuple)
    return maker(*arguments) if maker and is_one else None


def _array(kind: Any, shape: Any, _: Any) -> PickledArray | None:
    """What a pickled array starts from; its values follow in the file."""
    named = isinstance(kind, Name) and (kind.module, kind.name) == ("numpy", "ndarray")
    return PickledArray() if named and shape == (0,) else None


def _array_of(data: Any, dtype: Any, shape: Any, order: Any) -> PickledArray | None:
    """What an array is pickled as from protocol 5 on."""
    if not isinstance(dtype, PickledDtype):
        return None
    made = PickledArray()
    made.fill(shape, dtype, order == "F", data)
    return made


def _dtype(code: Any, *_: Any) -> PickledDtype | None:
    return PickledDtype(code) if isinstance(code, str) and code in NUMBERS else None


def _scalar(dtype: Any, data: Any) -> Any:
    """What numpy pickles a single value as."""
    sized = isinstance(data, bytes | str | EncodedText) and len(data) <= _MOST_TEXT
    if not isinstance(dtype, PickledDtype) or not sized:
        return None
    data = bytes_of(data)
    if len(data) != dtype.numpy.itemsize:
        raise PickleError(f"a number of type {dtype.numpy} holds {len(data)} bytes")
    return np.frombuffer(data, dtype.numpy)[0].item()


def _encoded(text: Any, encoding: Any) -> EncodedText | None:
    """What bytes are pickled as in protocols before 3."""
    return EncodedText(text) if isinstance(text, str) and encoding == "latin1" else None


def _no_bytes() -> bytes:
    """What an array without values is pickled with in these protocols."""
    return b""


Maker = Callable[..., Any]
MAKERS: Mapping[tuple[str, str], Maker] = {
    ("collections", "OrderedDict"): _dict,
    ("collections", "defaultdict"): _dict,
    ("collections", "Counter"): _counter,
    ("torch", "Size"): _size,
    ("torch", "device"): _device,
    ("torch._tensor", "_rebuild_from_type_v2"): _of_type,
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _encoded,
    **{
        (module, name): maker
        for module in ("builtins", "__builtin__")
        for name, maker in (
            ("bytes", _no_bytes),
            ("dict", _dict),
            ("list", _sequence),
            ("tuple", _sequence),
            ("set", _sequence),
            ("frozenset", _sequence),
        )
    },
    **{
        ("torch._utils", name): maker
        for name, maker in (
            ("_rebuild_tensor", _tensor),
            ("_rebuild_tensor_v2", _tensor),
            ("_rebuild_tensor_v3", _typed_tensor),
            ("_rebuild_parameter", _same),
            ("_rebuild_parameter_with_state", _same),
            ("_rebuild_device_tensor_from_numpy", _same),
            ("_rebuild_device_tensor_from_cpu_tensor", _same),
        )
    },
    **{
        (f"{core}.{module}", name): maker
        for core in ("numpy.core", "numpy._core")
        for module, name, maker in (
            ("multiarray", "_reconstruct", _array),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _array_of),
        )
    },
}
