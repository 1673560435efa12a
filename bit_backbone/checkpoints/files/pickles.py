"""Reading torch.save files and detectron2's .pkl files without running anything in them."""

from __future__ import annotations

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
from bit_backbone.checkpoints.files.numpy_pickles import GLOBALS, ForbiddenError, PickledArray

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
        with torch.serialization.safe_globals(_named_globals()):
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
    except ForbiddenError as error:
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
        value = value.numpy if isinstance(value, PickledArray) else value
        if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
            value = torch.from_numpy(value if value.flags.writeable else value.copy())
        if isinstance(name, str) and isinstance(value, torch.Tensor):
            yield name, value


_ALLOWED = {**GLOBALS, ("collections", "OrderedDict"): OrderedDict}


class _ArrayUnpickler(pickle.Unpickler):
    """An unpickler that can make containers, numbers and numpy arrays, and call nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """Returns one of the few callables a pickled array needs."""
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise ForbiddenError(f"it asks for {module}.{name}") from None


def _named_globals() -> list[Any]:
    """The same for torch's safe unpickler, which also asks which types may take a state."""
    named = [(reader, f"{module}.{name}") for (module, name), reader in GLOBALS.items()]
    return [*named, PickledArray]


def _refusal(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{path} is refused: its pickle holds more than tensors, which can run code when it is "
        f"read ({_asked_for(error)}); get it as .safetensors or .npz, or, if you trust it, load "
        "it yourself and pass its state dict"
    )


def _asked_for(error: Exception) -> str:
    """What the pickle asked for, out of torch's page of advice."""
    match = re.search(r"(?:GLOBAL|it asks for) (.+?)(?: was not an allowed|$)", str(error), re.M)
    return f"it asks for {match[1]}" if match else _first_line(error)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
