"""Reading torch.save files and detectron2's .pkl files without running anything in them."""

from __future__ import annotations

import codecs
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bit_backbone.checkpoints.errors import CheckpointError
from bit_backbone.checkpoints.files.archives import check_checksums
from bit_backbone.checkpoints.files.base import TensorMapping

# Where training scripts put the model's own tensors, in the order in which they are looked for.
STATE_DICT_KEYS = ("model", "state_dict", "model_state_dict", "module", "net", "weights")


def open_torch_file(path: Path) -> TensorMapping:
    """Reads a torch.save file, wherever in it the state dict is.

    Raises:
        CheckpointError: Truncated, or it would run code.
    """
    if zipfile.is_zipfile(path):
        check_checksums(path)
    try:
        with torch.serialization.safe_globals(_numpy_globals()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _refusal(path, error) from error
    except Exception as error:  # torch raises whatever the damage leads to
        raise CheckpointError(
            f"{path} is truncated or no torch.save file ({_first_line(error)}); delete it and "
            "fetch it again"
        ) from error
    return TensorMapping(find_state_dict(content, str(path)), str(path), owned=True)


def open_pickle_file(path: Path) -> TensorMapping:
    """Reads detectron2's model-zoo format: a pickled dict of arrays, usually under "model".

    Raises:
        CheckpointError: Truncated, or it holds anything but containers, numbers and arrays.
    """
    try:
        with path.open("rb") as file:
            content = _ArrayUnpickler(file, encoding="latin1").load()
    except _ForbiddenGlobalError as error:
        raise _refusal(path, error) from error
    except Exception as error:  # so does pickle
        raise CheckpointError(
            f"{path} is truncated or no pickle ({_first_line(error)}); delete it and fetch it again"
        ) from error
    return TensorMapping(find_state_dict(content, str(path)), str(path), owned=True)


def find_state_dict(content: Any, origin: str) -> dict[str, torch.Tensor]:
    """Returns the state dict in what a file held, numpy arrays as tensors.

    Args:
        content: A state dict, or a dict that holds one as detectron2, timm and most training
            scripts save it. Other entries (an optimizer's, an epoch number) are left out.
        origin: The file, for messages.

    Raises:
        CheckpointError: There is none.
    """
    if isinstance(content, Mapping):
        tensors = dict(_tensors(content))
        if tensors:
            return tensors
        for key in STATE_DICT_KEYS:
            if isinstance(content.get(key), Mapping):
                return find_state_dict(content[key], origin)
        found = f"a dict with the keys {', '.join(map(repr, list(content)[:8])) or '(none)'}"
    else:
        found = f"a {type(content).__name__}"
    raise CheckpointError(
        f"{origin} must hold a state dict, alone or under one of {', '.join(STATE_DICT_KEYS)}; it "
        f"holds {found}: pass the right part of it as a dict of tensors"
    )


def _tensors(content: Mapping[Any, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    for name, value in content.items():
        if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
            value = torch.from_numpy(value if value.flags.writeable else value.copy())
        if isinstance(name, str) and isinstance(value, torch.Tensor):
            yield name, value


class _ForbiddenGlobalError(pickle.UnpicklingError):
    """A pickle that asks for more than arrays."""


def _empty_array(kind: type, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """What a pickled array starts from; its values follow in the file."""
    if kind is not np.ndarray or shape != (0,):
        raise _ForbiddenGlobalError(f"it asks for a {kind.__name__} of shape {shape}")
    return np.ndarray(shape, dtype)


def _array_of(data: Any, dtype: Any, shape: tuple[int, ...], order: Any) -> np.ndarray:
    """What an array is pickled as from protocol 5 on."""
    return np.frombuffer(data, dtype).reshape(shape, order=order)


# What numpy pickles an array and a scalar with; its module is numpy._core from version 2 on.
_RECONSTRUCT = np.empty(0).__reduce__()[0]
_SCALAR = np.float32(0).__reduce__()[0]
_NUMPY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")

_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): codecs.encode,  # bytes, in protocols before 3
    **{(module, "_reconstruct"): _empty_array for module in _NUMPY_MODULES},
    **{(module, "scalar"): _SCALAR for module in _NUMPY_MODULES},
    ("numpy.core.numeric", "_frombuffer"): _array_of,
    ("numpy._core.numeric", "_frombuffer"): _array_of,
}


class _ArrayUnpickler(pickle.Unpickler):
    """An unpickler that can make containers, numbers and numpy arrays, and call nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """Returns one of the few callables a pickled array needs."""
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise _ForbiddenGlobalError(f"it asks for {module}.{name}") from None


def _numpy_globals() -> list[Any]:
    """What torch's safe unpickler needs to know to read numpy arrays in a .pth file."""
    dtypes = [type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8")]
    reconstruct = [(_RECONSTRUCT, f"{module}._reconstruct") for module in _NUMPY_MODULES]
    scalar = [(_SCALAR, f"{module}.scalar") for module in _NUMPY_MODULES]
    return [*reconstruct, *scalar, np.ndarray, np.dtype, codecs.encode, *dtypes]


def _refusal(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{path} is refused: its pickle holds more than tensors, which can run code when it is "
        f"read ({_asked_for(error)}); get it as .safetensors or .npz, or, if you trust it, load "
        "it yourself and pass its state dict"
    )


def _asked_for(error: Exception) -> str:
    """What the pickle asked for, out of torch's page of advice."""
    match = re.search(r"GLOBAL (\S+)", str(error))
    return f"it asks for {match[1]}" if match else _first_line(error)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
