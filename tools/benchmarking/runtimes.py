"""Contenders that run in ONNX Runtime and OpenVINO: files of ours, and of timm's network."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bit_backbone.network import PreActUnit

from .workloads import Workload

Builder = Callable[[Workload, Any], nn.Module]

ENDINGS = {"onnx": "model.onnx", "openvino": "model.xml"}


class _Session(nn.Module):
    """A file in a runtime, with as many threads as torch has."""

    def __init__(self, path: Path, runtime: str, dtype: torch.dtype) -> None:
        super().__init__()
        start = {"onnx": _onnxruntime, "openvino": _openvino}[runtime]
        self.infer = start(path, torch.get_num_threads(), dtype)

    def forward(self, images: Tensor) -> Any:
        return self.infer(images.float().numpy())


def _onnxruntime(path: Path, threads: int, dtype: torch.dtype) -> Callable[[Any], Any]:
    import onnxruntime

    if dtype != torch.float32:
        raise ValueError(f"ONNX Runtime computes in float32 on a CPU, got {dtype}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    return lambda images: session.run(None, {entry.name: images})


def _openvino(path: Path, threads: int, dtype: torch.dtype) -> Callable[[Any], Any]:
    import openvino

    hints = {torch.float32: "f32", torch.bfloat16: "bf16"}
    settings = {"INFERENCE_PRECISION_HINT": hints[dtype], "INFERENCE_NUM_THREADS": threads}
    request = openvino.Core().compile_model(str(path), "CPU", settings).create_infer_request()
    return lambda images: request.infer([images], share_outputs=True)


def exported(
    network: Callable[[Workload], nn.Module], runtime: str, dtype: torch.dtype | None = None
) -> Builder:
    """Returns the builder of what ``bit_backbone.export`` writes.

    Args:
        network: Builds the network.
        runtime: "onnx" or "openvino".
        dtype: What the runtime computes in; None for the setting's.
    """

    def build(work: Workload, setting: Any) -> nn.Module:
        from bit_backbone.export import export

        def write(path: Path) -> None:
            export(_calm(network(work)).eval(), path, format=runtime)

        path = _file("ours", work, runtime, setting, write)
        return _Session(path, runtime, dtype or setting.dtype)

    return build


def _file(
    owner: str, work: Workload, kind: str, setting: Any, write: Callable[[Path], None]
) -> Path:
    """Returns a file of the run, which the first process that needs it writes."""
    stages = "".join(map(str, work.out_indices))
    path = Path(setting.files, f"{owner}-{work.variant}-{stages}-{kind}", ENDINGS[kind])
    if not path.exists():
        # Written elsewhere first: a process that is stopped leaves no half of a file here.
        with tempfile.TemporaryDirectory(dir=setting.files) as folder:
            made = Path(folder, "made")
            made.mkdir()
            write(made / path.name)
            made.rename(path.parent)
    return path


def _calm(network: nn.Module) -> nn.Module:
    """Makes residual branches small, as trained ones are: random ones magnify rounding errors.

    An export is verified, and what a runtime rounds differently would count as a difference.
    """
    for unit in network.modules():
        if isinstance(unit, PreActUnit):
            nn.init.constant_(unit.norm3.weight, 0.2)
    return network


def plainly_exported(
    network: Callable[[Workload], nn.Module], runtime: str, dtype: torch.dtype | None = None
) -> Builder:
    """Returns the builder of what ``torch.onnx.export`` writes, for any size of image."""

    def build(work: Workload, setting: Any) -> nn.Module:
        def write(path: Path) -> None:
            free = {0: "batch", 2: "height", 3: "width"}
            images = torch.randn(2, 3, 224, 256)
            torch.onnx.export(
                network(work).eval(), (images,), path,
                dynamo=True, dynamic_shapes=(free,), external_data=False, verbose=False,
            )  # fmt: skip

        path = _file("theirs", work, "onnx", setting, write)
        return _Session(path, runtime, dtype or setting.dtype)

    return build
