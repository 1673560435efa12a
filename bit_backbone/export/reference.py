"""What the PyTorch model gives where a file is to give the same."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from bit_backbone.detection.segmenters import Segmenter, normalise
from bit_backbone.export.comparing import (
    Difference,
    compare_detections,
    compare_labels,
    compare_maps,
)
from bit_backbone.export.detectron2_model import MASK_THRESHOLD, Detectron2Detector
from bit_backbone.export.pixels import LEVELS, resize_columns_first
from bit_backbone.export.program import Program, output_name, plain_processor
from bit_backbone.export.settings import Tolerance
from bit_backbone.preprocessing import BitImageProcessor
from bit_backbone.preprocessing.pixels import target_size


@dataclass(frozen=True)
class Reference:
    """The model's side of the comparison.

    Attributes:
        inputs: Makes an image uint8 [H, W, 3] what the file takes.
        expected: What the model gives for that.
        compare: Compares it with what the file gives, by name.
    """

    inputs: Callable[[np.ndarray], Tensor]
    expected: Callable[[Tensor], Any]
    compare: Callable[[Any, Mapping[str, Tensor], Tolerance], Difference]


def reference_of(
    model: nn.Module, program: Program, processor: BitImageProcessor | None
) -> Reference:
    """Returns what a file of a program has to equal.

    Args:
        model: What was exported; not changed, for a training may continue with it.
        program: Made from it.
        processor: That the program was made with.
    """
    with torch.inference_mode(False):
        model = copy.deepcopy(model).cpu().float().eval()
    takes_bytes = program.example.dtype == torch.uint8
    if program.task == "detection":
        return _of_detector(model, program, takes_bytes)
    prepare = _scale if isinstance(model, Segmenter) else _preparation(program, processor)
    inputs = _bytes if takes_bytes else (lambda image: prepare(_bytes(image)))
    ready = prepare if takes_bytes else (lambda given: given)
    if isinstance(model, Segmenter):
        network: Any = model.network
        return Reference(
            inputs,
            torch.inference_mode()(lambda given: network(normalise(ready(given)))["out"]),
            lambda logits, found, tolerance: compare_labels(logits, found["semantic"], tolerance),
        )
    expected = torch.inference_mode()(lambda given: _values(model, ready(given), program.outputs))
    return Reference(inputs, expected, compare_maps)


def _bytes(image: np.ndarray) -> Tensor:
    return torch.from_numpy(image)


def _scale(image: Tensor) -> Tensor:
    """Maps uint8 [H, W, 3] to [1, 3, H, W] in 0..1."""
    return (image.permute(2, 0, 1) / LEVELS)[None]


def _preparation(
    program: Program, processor: BitImageProcessor | None
) -> Callable[[Tensor], Tensor]:
    """Returns what makes uint8 [H, W, 3] the network's input: the processor, and not the file's."""
    takes_bytes = program.example.dtype == torch.uint8
    chosen = processor if takes_bytes and processor is not None else plain_processor()

    def prepare(given: Tensor) -> Tensor:
        image = Image.fromarray(given.numpy())
        if chosen.do_resize:
            height, width = target_size(image.height, image.width, chosen.size)
            image = resize_columns_first(image, height, width, chosen.resample)
        values: Tensor = chosen(image, return_tensors="pt")["pixel_values"]
        return values

    return prepare


def _values(model: nn.Module, images: Tensor, outputs: tuple[str, ...]) -> dict[str, Tensor]:
    found = model(images)
    if isinstance(found, Tensor):  # a classifier with torchvision's interface
        return {outputs[0]: found}
    named = {output_name(key): value for key, value in found.items()}
    return {name: named[name] for name in outputs}


def _of_detector(model: Any, program: Program, takes_bytes: bool) -> Reference:
    module: Any = program.module

    def inputs(image: np.ndarray) -> Tensor:
        return _bytes(image) if takes_bytes else _bytes(image).permute(2, 0, 1) / LEVELS

    @torch.inference_mode()
    def expected(given: Tensor) -> dict[str, Tensor]:
        image = given.permute(2, 0, 1) / LEVELS if takes_bytes else given
        (found,) = model([image])
        return dict(found)

    def compare(
        wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], tolerance: Tolerance
    ) -> Difference:
        if not module.with_nms:
            found = dict(zip(program.outputs, module.choose(*found.values()), strict=True))
        if isinstance(model, Detectron2Detector) and "masks" in found:
            # detectron2 gives bits, the file probabilities
            found = {**found, "masks": (found["masks"] >= MASK_THRESHOLD).float()}
        return compare_detections(wanted, found, tolerance)

    return Reference(inputs, expected, compare)
