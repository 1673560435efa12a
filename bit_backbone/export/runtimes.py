"""Exported files opened in their own runtimes; nothing here imports torchvision's models."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bit_backbone.checkpoints import CheckpointError
from bit_backbone.export.metadata import KEY, Metadata
from bit_backbone.export.settings import FORMATS
from bit_backbone.utils.extras import require

Run = Callable[[Tensor], Sequence[Tensor]]

_TOO_SMALL = re.compile(r">= \d+ but received \d+")  # of a size that the compiler took for granted


def is_exported(path: Path) -> bool:
    """Whether a path is, by its name and content, a file that ``bit_backbone.export`` writes."""
    if not path.is_file():
        return False
    if path.suffix in (".onnx", ".xml"):
        return True
    return path.suffix in (".pt2", ".pt", ".ts") and _kind_of_archive(path) is not None


def format_of(path: Path) -> str:
    """Returns the format of an exported file.

    Raises:
        CheckpointError: It is none, or is not there.
    """
    if not path.is_file():
        raise CheckpointError(f"the exported file {path} does not exist")
    for name in ("onnx", "openvino"):
        if path.suffix in FORMATS[name].suffixes:
            return name
    kind = _kind_of_archive(path)
    if kind is None:
        suffixes = sorted({suffix for each in FORMATS.values() for suffix in each.suffixes})
        raise CheckpointError(
            f"an exported file is named *{', *'.join(suffixes)} and holds what `bit-backbone "
            f"export` writes; {path} does not"
        )
    return kind


def _kind_of_archive(path: Path) -> str | None:
    """Distinguishes torch's kinds of archives, which share their suffixes."""
    if not zipfile.is_zipfile(path):
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:  # with a zip's end, and a damaged list of its files
        return None
    if any("/data/aotinductor/" in name for name in names):
        return "aoti"
    if any("/models/" in name and name.endswith(".json") for name in names):
        return "torch-export"
    is_script = any(name.endswith("/constants.pkl") for name in names)
    return "torchscript" if is_script and any("/code/" in name for name in names) else None


def open_file(path: Path) -> tuple[Run, Metadata]:
    """Opens an exported file in its runtime, on the CPU.

    Raises:
        CheckpointError: It cannot be read, or was not written by this package.
        MissingExtraError: Its runtime is not installed.
    """
    opener = _OPENERS[format_of(path)]
    try:
        return opener(path)
    except (CheckpointError, ImportError, OSError):
        raise
    except Exception as error:
        # Each runtime has exceptions of its own, mostly RuntimeError, for damaged files.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise CheckpointError(f"{path} cannot be read: {reason}") from error


def _open_onnx(path: Path) -> tuple[Run, Metadata]:
    runtime = require("onnxruntime", "onnx", "a file of format onnx")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    stored = session.get_modelmeta().custom_metadata_map.get(KEY)
    metadata = Metadata.from_json(stored, str(path))

    def run(x: Tensor) -> list[Tensor]:
        values = session.run(list(metadata.outputs), {metadata.input: x.numpy()})
        return [torch.from_numpy(value) for value in values]

    return run, metadata


def _open_openvino(path: Path) -> tuple[Run, Metadata]:
    openvino = require("openvino", "openvino", "a file of format openvino")
    core = openvino.Core()
    model = core.read_model(str(path))
    stored = model.get_rt_info([KEY, "metadata"]).value if model.has_rt_info([KEY]) else None
    metadata = Metadata.from_json(stored, str(path))
    # By default OpenVINO computes in bfloat16 where the processor has it.
    exact = metadata.precision in ("float32", "int8")
    hint = {"INFERENCE_PRECISION_HINT": "f32"} if exact else {}
    request = core.compile_model(model, "CPU", hint).create_infer_request()

    def run(x: Tensor) -> list[Tensor]:
        found = request.infer({metadata.input: x.numpy()})
        # copies, for the next image is computed in the same memory
        return [torch.tensor(found[name]) for name in metadata.outputs]

    return run, metadata


def _open_torch_export(path: Path) -> tuple[Run, Metadata]:
    _register_operators()
    extra = {KEY: ""}
    module = torch.export.load(str(path), extra_files=extra).module()
    return _of_torch(module), Metadata.from_json(_text(extra[KEY]), str(path))


def _open_aoti(path: Path) -> tuple[Run, Metadata]:
    _register_operators()
    package = torch._inductor.aoti_load_package(str(path))
    metadata = Metadata.from_json(package.get_metadata().get(KEY), str(path))
    run = _of_torch(package)
    return (_of_large_images(run, path) if metadata.task == "detection" else run), metadata


def _of_large_images(run: Run, path: Path) -> Run:
    """Explains what a compiled detector says of an image that is too small for it."""

    def explained(x: Tensor) -> Sequence[Tensor]:
        try:
            return run(x)
        except RuntimeError as error:
            if not _TOO_SMALL.search(str(error)):
                raise
            height, width = x.shape[:2] if x.dtype == torch.uint8 else x.shape[1:]
            raise ValueError(
                f"{path} is compiled for images whose last feature map has two rows and columns or "
                f"more, and that of one of {height}x{width} has fewer after the detector's "
                "resizing: pad a narrow image, or export as torch-export, onnx or "
                "openvino, which take any size"
            ) from error

    return explained


def _open_torchscript(path: Path) -> tuple[Run, Metadata]:
    _register_operators()
    extra = {KEY: ""}
    module = torch.jit.load(str(path), map_location="cpu", _extra_files=extra)
    return _of_torch(module), Metadata.from_json(_text(extra[KEY]), str(path))


def _of_torch(module: Any) -> Run:
    def run(x: Tensor) -> Sequence[Tensor]:
        with torch.inference_mode():
            # compiled code takes the strides of its example for granted, and checks none
            found: Sequence[Tensor] = module(x.contiguous())
            return found

    return run


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _register_operators() -> None:
    """Makes nms and roi_align known to torch: torchvision's operators, and none of its models."""
    import torchvision  # noqa: F401


_OPENERS: dict[str, Callable[[Path], tuple[Run, Metadata]]] = {
    "onnx": _open_onnx,
    "openvino": _open_openvino,
    "torch-export": _open_torch_export,
    "aoti": _open_aoti,
    "torchscript": _open_torchscript,
}
