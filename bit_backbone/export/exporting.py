"""Exporting a model as a file, which is verified in its own runtime before it gets its name."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bit_backbone.checkpoints import CheckpointError
from bit_backbone.export.comparing import Difference
from bit_backbone.export.metadata import Metadata
from bit_backbone.export.photographs import photographs
from bit_backbone.export.program import Program, program_of
from bit_backbone.export.reference import Reference, reference_of
from bit_backbone.export.runtimes import Run, open_file
from bit_backbone.export.settings import FORMATS, ExportSettings, check_target
from bit_backbone.export.silent import lower_threshold
from bit_backbone.export.writers import WRITERS
from bit_backbone.preprocessing import BitImageProcessor
from bit_backbone.utils.extras import require
from bit_backbone.utils.files import staging_folder

ROUNDS = 3  # of the comparison of times


@dataclass(frozen=True)
class Checked:
    """One image of the verification.

    Attributes:
        size: (height, width).
        difference: Difference of the file from the model.
        file_ms: Milliseconds of the file, a median of ``ROUNDS`` runs.
        model_ms: Milliseconds of the PyTorch model.
    """

    size: tuple[int, int]
    difference: Difference
    file_ms: float
    model_ms: float


@dataclass(frozen=True)
class ExportReport:
    """What was written.

    Attributes:
        path: The file.
        format: Of the file.
        task: The task of the model.
        size: Bytes of all files of the export.
        checks: One for each image.
    """

    path: Path
    format: str
    task: str
    size: int
    checks: tuple[Checked, ...]


def export(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    format: str,
    image_size: tuple[int, int] | None = None,
    precision: str = "float32",
    with_preprocessing: bool = False,
    with_nms: bool = True,
    processor: BitImageProcessor | None = None,
    categories: Sequence[str] = (),
    keypoint_names: Sequence[str] = (),
    name: str | None = None,
    bit_depth: int | str = "auto",
    images: str | os.PathLike[str] | None = None,
) -> ExportReport:
    """Writes a model as a file that another runtime runs.

    The file is run on three images of different sizes before it gets its name, and is not written
    where it differs from the model. If a detector finds nothing in them, a second file with a lower
    threshold is compared.

    Args:
        model: A classifier, a backbone, one with a feature pyramid, a detector or a segmenter of
            this package; not changed.
        path: The file to write; a missing folder is created.
        format: "onnx", "openvino" (two files, NAME.xml and NAME.bin), "torch-export", "aoti" or
            "torchscript".
        image_size: The only (height, width) that the file takes, in batches of one; None for any.
        precision: "float32", "bfloat16", "float16" or "int8": type of the BiT network.
        with_preprocessing: Whether the file takes an image as it is read, uint8 [H, W, 3], RGB.
        with_nms: Whether a detector's file returns detections; otherwise it returns all candidates.
        processor: The preprocessing of a classifier or backbone; None for scaling and
            normalisation.
        categories: Names of the classes; for a detector from label 1 on.
        keypoint_names: Names of the keypoints.
        name: Name of the model; None for the name of its class.
        bit_depth: Bits in use in images with more than 8 bits per channel, stored in the file.
        images: A folder with three images to verify with; None for scikit-learn's photographs.

    Raises:
        ValueError: The model cannot be exported with these arguments, or the file differs from it.
        MissingExtraError: A package that the format needs is not installed.
    """
    settings = ExportSettings(format, image_size, precision, with_preprocessing, with_nms)
    target = _checked_target(Path(path), format)
    pictures = photographs(None if images is None else Path(images), image_size)
    program = program_of(model, settings, processor)
    names = name or type(model).__name__, tuple(categories), tuple(keypoint_names)
    metadata = _metadata_of(program, settings, processor, *names, bit_depth)
    with staging_folder(target) as folder:
        staged = folder / target.name
        WRITERS[format](program, staged, metadata)
        reference = reference_of(model, program, processor)
        checks = verify(program, reference, staged, pictures, settings)
        if not any(check.difference.compares for check in checks):
            checks = _verify_candidates(model, target.name, metadata, pictures, settings)
        size = sum(file.stat().st_size for file in folder.iterdir())
    return ExportReport(target, format, program.task, size, checks)


def _checked_target(target: Path, format: str) -> Path:
    """Returns where to write, once it can be written and what the format needs is installed."""
    check_target(target, format)
    for module in FORMATS[format].modules:
        require(module, str(FORMATS[format].extra), f"the format {format}")
    return target


def _metadata_of(
    program: Program,
    settings: ExportSettings,
    processor: BitImageProcessor | None,
    name: str,
    categories: tuple[str, ...],
    keypoint_names: tuple[str, ...],
    bit_depth: int | str,
) -> Metadata:
    return Metadata(
        program.task,
        name,
        program.input_name,
        program.outputs,
        categories,
        keypoint_names,
        None if processor is None else processor.to_dict(),
        settings.with_preprocessing,
        settings.with_nms,
        program.takes_batches,
        settings.image_size,
        settings.precision,
        bit_depth,
    )


def verify(
    program: Program,
    reference: Reference,
    path: Path,
    images: Sequence[np.ndarray],
    settings: ExportSettings,
) -> tuple[Checked, ...]:
    """Compares a file with the model on images.

    The model runs first, because waiting threads of the other runtimes would slow it down.

    Raises:
        ValueError: The results differ on one of them; the message describes the difference.
    """
    tolerance = settings.tolerance
    inputs = [reference.inputs(image) for image in images]
    if program.takes_batches:
        inputs[0] = torch.cat([inputs[0], inputs[0].flip(-1)])
    expectations = [_timed(reference.expected, given) for given in inputs]
    run, _ = open_file(path)
    checks = []
    for image, given, (expected, model_ms) in zip(images, inputs, expectations, strict=True):
        found, file_ms = _timed(_run, run, given)
        named = dict(zip(program.outputs, found, strict=True))
        difference = reference.compare(expected, named, tolerance)
        size = image.shape[0], image.shape[1]
        if difference.problem is not None:
            raise ValueError(
                f"the {settings.format} file differs from the model on an image of "
                f"{size[0]}x{size[1]}, and is not written: {difference.problem}"
            )
        checks.append(Checked(size, difference, file_ms, model_ms))
    return tuple(checks)


def _verify_candidates(
    model: nn.Module,
    name: str,
    metadata: Metadata,
    images: Sequence[np.ndarray],
    settings: ExportSettings,
) -> tuple[Checked, ...]:
    """Compares what a detector that finds nothing would find with a lower threshold."""
    lowered = lower_threshold(model, images)
    program = program_of(lowered, settings, None)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        WRITERS[settings.format](program, path, metadata)
        return verify(program, reference_of(lowered, program, None), path, images, settings)


def _run(run: Run, x: Tensor) -> Sequence[Tensor]:
    try:
        return run(x)
    except Exception as error:
        reason = str(error).strip().splitlines()
        raise CheckpointError(
            f"the exported file does not run on {list(x.shape)}, and is not written: "
            f"{reason[0] if reason else error!r}"
        ) from error


def _timed(function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    """Returns what a function returns, and the median of its milliseconds."""
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        result = function(*arguments)
        times.append(time.perf_counter() - start)
    return result, 1000 * statistics.median(times)
