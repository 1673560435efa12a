"""What is fuzzed: a good file of each kind, and what may come of reading a damaged one.

An attempt ends as "rejected", by a documented error, or as "loaded", with the right values.
Anything else is a finding: another exception, or values that are in no file.
"""

import io
import pickle
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from PIL import Image
from tiny_models import classifier, snapshot, tiny_official

from bit_backbone import BitImageProcessor
from bit_backbone.checkpoints import CheckpointError, load


@dataclass(frozen=True)
class Target:
    """A kind of file.

    Attributes:
        good: Makes a good file's bytes, in a folder for its use.
        attempt: Reads a file and says how that ended; takes its path and the good file's.
    """

    good: Callable[[Path], bytes]
    attempt: Callable[[Path, Path], str]


class WrongValuesError(AssertionError):
    """Something was loaded that the file does not hold."""


def _saved(write: Callable[[dict[str, torch.Tensor], Path], None], folder: Path) -> bytes:
    torch.manual_seed(0)
    path = folder / "good"
    write(dict(classifier().state_dict()), path)
    return path.read_bytes()


def _official(folder: Path) -> bytes:
    return tiny_official(folder).read_bytes()


def _torch_zip(state: dict[str, torch.Tensor], path: Path) -> None:
    torch.save({"model": state, "epoch": 3}, path)


def _torch_legacy(state: dict[str, torch.Tensor], path: Path) -> None:
    torch.save(state, path, _use_new_zipfile_serialization=False)


def _pickle(state: dict[str, torch.Tensor], path: Path) -> None:
    content = {"model": {n: t.numpy() for n, t in state.items()}, "__author__": "somebody"}
    path.write_bytes(pickle.dumps(content, protocol=4))


def _load(path: Path) -> dict[str, torch.Tensor] | None:
    """Loads a checkpoint into a fresh model; None if it is rejected, which must change nothing."""
    torch.manual_seed(1)
    model = classifier()
    before = snapshot(model)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # NaN in the weights is reported, not rejected
            load(model, path)
    except CheckpointError:
        state = model.state_dict()
        if any(not torch.equal(state[name], tensor) for name, tensor in before.items()):
            raise WrongValuesError("a rejected file has changed the model") from None
        return None
    return model.state_dict()


def with_checksums(path: Path, good: Path) -> str:
    """A kind that has checksums: nothing but the good file's values may come out."""
    state = _load(path)
    if state is None:
        return "rejected"
    expected = _load(good)
    assert expected is not None
    for name, tensor in expected.items():
        if not torch.equal(state[name], tensor):
            raise WrongValuesError(f"{name} is not what was saved, and nothing was said")
    return "loaded"


def without_checksums(path: Path, good: Path) -> str:
    """A kind that has none: each tensor must be what the file says, byte by byte."""
    state = _load(path)
    if state is None:
        return "rejected"
    data = path.read_bytes()
    for name, tensor in state.items():
        if tensor.numpy().tobytes() not in data:
            raise WrongValuesError(f"{name} is not what the file holds")
    return "loaded"


def as_torch_reads(path: Path, good: Path) -> str:
    """A kind without checksums whose tensors may have strides of their own: equal to torch's."""
    state = _load(path)
    if state is None:
        return "rejected"
    try:
        theirs = torch.load(path, weights_only=True)
    except Exception:
        return without_checksums(path, good)  # torch minds what we leave out, such as a device
    for name, tensor in state.items():
        if tensor.numpy().tobytes() != theirs[name].contiguous().numpy().tobytes():
            raise WrongValuesError(f"{name} is not what the file holds")
    return "loaded"


PHOTOGRAPH = np.random.default_rng(0).integers(0, 256, (24, 37, 3), np.uint8)


def _picture(mode: str, kind: str, folder: Path) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PHOTOGRAPH).convert(mode).save(buffer, kind)
    return buffer.getvalue()


def prepared(path: Path, good: Path) -> str:
    """An image: rejected by ValueError or OSError, or preprocessed to finite pixels."""
    processor = BitImageProcessor(size={"shortest_edge": 32}, crop_size=32)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, of metadata that it skips
            pixels = processor(path, return_tensors="pt")["pixel_values"]
    except (ValueError, OSError):
        return "rejected"
    if pixels.shape != (1, 3, 32, 32) or not torch.isfinite(pixels).all():
        raise WrongValuesError(f"an image became {tuple(pixels.shape)}, or infinite")
    return "loaded"


TARGETS = {
    "official .npz": Target(_official, with_checksums),
    "torch.save": Target(partial(_saved, _torch_zip), with_checksums),
    "torch.save before 1.6": Target(partial(_saved, _torch_legacy), as_torch_reads),
    ".safetensors": Target(partial(_saved, safetensors.torch.save_file), without_checksums),
    "detectron2's .pkl": Target(partial(_saved, _pickle), without_checksums),
    "PNG": Target(partial(_picture, "RGB", "PNG"), prepared),
    "PNG with a palette": Target(partial(_picture, "P", "PNG"), prepared),
    "JPEG": Target(partial(_picture, "RGB", "JPEG"), prepared),
    "CMYK JPEG": Target(partial(_picture, "CMYK", "JPEG"), prepared),
    "GIF": Target(partial(_picture, "P", "GIF"), prepared),
    "BMP": Target(partial(_picture, "RGB", "BMP"), prepared),
    "TIFF": Target(partial(_picture, "RGB", "TIFF"), prepared),
    "WebP": Target(partial(_picture, "RGB", "WEBP"), prepared),
}
