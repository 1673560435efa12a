"""Writing checkpoint files: whole or not at all, and none of them over a file by accident."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import safetensors.torch
import torch

from bit_backbone.checkpoints.errors import CheckpointError
from bit_backbone.utils.files import atomic_path
from bit_backbone.utils.ways_out import either, passing

NamedTensors: TypeAlias = Iterable[tuple[str, torch.Tensor]]
Writer: TypeAlias = Callable[[Path, NamedTensors], None]

_AUTHOR = "bit_backbone"
# zip cannot hold earlier times, and an equal network should give an equal file.
_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)


def write_npz(path: Path, tensors: NamedTensors) -> None:
    """Writes an .npz as numpy.savez does, one tensor at a time."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, tensor in tensors:
            info = zipfile.ZipInfo(f"{name}.npy", _ZIP_EPOCH)
            with archive.open(info, "w", force_zip64=True) as member:
                np.lib.format.write_array(member, _as_array(tensor), allow_pickle=False)


def write_safetensors(path: Path, tensors: NamedTensors) -> None:
    """Writes a .safetensors file that transformers and timm accept."""
    safetensors.torch.save_file(dict(tensors), path, metadata={"format": "pt"})


def write_torch(path: Path, tensors: NamedTensors) -> None:
    """Writes a bare state dict with torch.save."""
    _torch_save(dict(tensors), path)


def write_detectron2_torch(path: Path, tensors: NamedTensors) -> None:
    """Writes what detectron2's checkpointer reads from a .pth."""
    _torch_save({"model": dict(tensors), "__author__": _AUTHOR}, path)


def write_detectron2_pickle(path: Path, tensors: NamedTensors) -> None:
    """Writes a .pkl in the format of detectron2's model zoo."""
    content = {"model": {n: _as_array(t) for n, t in tensors}, "__author__": _AUTHOR}
    with path.open("wb") as file:
        pickle.dump(content, file)


def _torch_save(content: Any, path: Path) -> None:
    with path.open("wb") as file:
        torch.save(content, file)


def _as_array(tensor: torch.Tensor) -> np.ndarray:
    """The tensor's values as an array; numpy has no bfloat16, float32 holds it exactly."""
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


@contextmanager
def writing(*targets: Path, overwrite: bool) -> Iterator[list[Path]]:
    """Gives a temporary path for each target; all become the targets on success, none otherwise.

    Raises:
        CheckpointError: A target exists and ``overwrite`` is False, or writing failed: a full
            disk, a read-only folder. No file is left then.
    """
    for target in targets:
        if target.exists() and not overwrite:
            raise CheckpointError(
                f"{target} exists: "
                + either("give another name", passing("overwrite", True, "to replace it"))
            )
    try:
        with ExitStack() as stack:
            yield [stack.enter_context(atomic_path(target)) for target in targets]
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(
            f"cannot write {', '.join(map(str, targets))}: {reason}; nothing was written"
        ) from error


def write_text(path: Path, text: str) -> None:
    """Writes a small text file."""
    path.write_text(text, encoding="utf-8")


WRITERS: Mapping[str, Writer] = {
    ".npz": write_npz,
    ".safetensors": write_safetensors,
    ".pth": write_torch,
    ".pt": write_torch,
    ".bin": write_torch,
}
DETECTRON2_WRITERS: Mapping[str, Writer] = {
    ".pth": write_detectron2_torch,
    ".pkl": write_detectron2_pickle,
}
