"""Files of each format, written from a program."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bit_backbone.export.compiled import prepare, without_transposed
from bit_backbone.export.layers import with_convolved_norms
from bit_backbone.export.metadata import KEY, Metadata
from bit_backbone.export.program import Program
from bit_backbone.export.quantized import store_in_8_bits
from bit_backbone.utils.extras import require

OPSET = 18  # the lowest with RoIAlign's and Resize's present meanings; every runtime has it
ONNX_LIMIT = 2**31  # bytes of a file in protobuf


@contextmanager
def _quiet() -> Iterator[None]:
    """Hides what tracers say of conditions that are the same for every image, and of their age."""
    with warnings.catch_warnings(), torch.no_grad():
        for category in (torch.jit.TracerWarning, DeprecationWarning, FutureWarning, UserWarning):
            warnings.simplefilter("ignore", category)
        yield


def _captured(program: Program) -> torch.export.ExportedProgram:
    shapes = dict.fromkeys(program.dynamic, torch.export.Dim.DYNAMIC)
    return torch.export.export(
        program.module, (program.example,), dynamic_shapes=(shapes,), strict=False
    )


def write_torch_export(program: Program, path: Path, metadata: Metadata) -> None:
    """Writes what ``torch.export.load`` reads."""
    with _quiet():
        captured = _captured(program)
        captured.example_inputs = None  # an image, which would be in the file
        torch.export.save(captured, str(path), extra_files={KEY: metadata.to_json()})


def write_aoti(program: Program, path: Path, metadata: Metadata) -> None:
    """Writes a compiled package, for this kind of processor."""
    options = {"aot_inductor.metadata": {KEY: metadata.to_json()}}
    is_detector = program.task == "detection"
    if is_detector:
        program = replace(program, module=without_transposed(program.module))
    with _quiet():
        captured = _captured(program)
        if is_detector:
            prepare(captured)
        torch._inductor.aoti_compile_and_package(
            captured, package_path=str(path), inductor_configs=options
        )


def write_torchscript(program: Program, path: Path, metadata: Metadata) -> None:
    """Writes what ``torch.jit.load`` reads, by tracing."""
    with _quiet():
        traced = torch.jit.trace(program.module, (program.example,), check_trace=False)
        torch.jit.save(traced, str(path), _extra_files={KEY: metadata.to_json()})


def write_onnx(program: Program, path: Path, metadata: Metadata) -> None:
    """Writes an ONNX file, in float32 with the norms that suit ONNX Runtime.

    Raises:
        ValueError: It would be larger than ONNX's own format can be.
    """
    if metadata.precision == "float32":
        program = replace(program, module=with_convolved_norms(program.module))
    _write_graph(program, path, metadata)


def _write_graph(program: Program, path: Path, metadata: Metadata) -> None:
    """Writes a program as ONNX.

    By the tracing exporter, which takes seconds for what torch.export takes minutes for, and makes
    the same graph.

    Raises:
        ValueError: It would be larger than ONNX's own format can be.
    """
    onnx = require("onnx", "onnx", "the format onnx")
    _check_size(program)
    names = {0: "batch"} if program.takes_batches else {}
    sizes = dict(zip([a for a in program.dynamic if a not in names], ("height", "width"),
                     strict=False))  # fmt: skip
    axes = {program.input_name: {a: (names | sizes)[a] for a in program.dynamic}}
    with _quiet():
        torch.onnx.export(
            copy.deepcopy(program.module),  # for the exporter changes what it is given
 (program.example,), str(path), dynamo=False, opset_version=OPSET,
            input_names=[program.input_name], output_names=list(program.outputs),
            dynamic_axes=axes if program.dynamic else None,
        )  # fmt: skip
    model = onnx.load(str(path))
    store_in_8_bits(model)
    onnx.helper.set_model_props(model, {KEY: metadata.to_json()})
    onnx.save(model, str(path))


def _check_size(program: Program) -> None:
    size = sum(p.numel() * p.element_size() for p in program.module.parameters())
    if size >= ONNX_LIMIT:
        raise ValueError(
            f"an ONNX file holds less than 2 GiB, and its weights take {size / 2**30:.1f} "
            "GiB: export with precision float16, or to torch-export"
        )


def write_openvino(program: Program, path: Path, metadata: Metadata) -> None:
    """Writes OpenVINO's pair of files, NAME.xml and NAME.bin, by way of ONNX."""
    openvino = require("openvino", "openvino", "the format openvino")
    onnx_path = path.with_suffix(".onnx")
    _write_graph(program, onnx_path, metadata)
    model = openvino.convert_model(str(onnx_path))
    model.set_rt_info(metadata.to_json(), [KEY, "metadata"])
    openvino.save_model(model, str(path), compress_to_fp16=False)
    del model  # which may still read the file
    onnx_path.unlink()


WRITERS: dict[str, Callable[[Program, Path, Metadata], Any]] = {
    "onnx": write_onnx,
    "openvino": write_openvino,
    "torch-export": write_torch_export,
    "aoti": write_aoti,
    "torchscript": write_torchscript,
}
