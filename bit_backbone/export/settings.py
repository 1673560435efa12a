"""The formats of exported files: suffixes, precisions and tolerances."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

HALVES = ("bfloat16", "float16")
INT8 = "int8"


@dataclass(frozen=True)
class Format:
    """A format of exported files.

    Attributes:
        suffixes: Suffixes of its files; the first is the usual one.
        precisions: Types in which its runtime computes, also on a CPU.
        extra: The extra that installs its runtime; None if torch is enough.
        modules: Packages that are needed for writing.
    """

    suffixes: tuple[str, ...]
    precisions: tuple[str, ...] = ("float32", *HALVES)
    extra: str | None = None
    modules: tuple[str, ...] = ()


FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        # ONNX Runtime has no bfloat16 convolution for CPUs, so such a file could not be verified.
        "onnx": Format((".onnx",), ("float32", "float16", INT8), "onnx", ("onnx", "onnxruntime")),
        # What OpenVINO computes in is chosen where a model is compiled; the file holds the weights.
        "openvino": Format(
            (".xml",), ("float32", "float16", INT8), "openvino", ("onnx", "openvino")
        ),
        "torch-export": Format((".pt2",)),
        "aoti": Format((".pt2",)),
        "torchscript": Format((".pt", ".ts")),
    }
)


@dataclass(frozen=True)
class Tolerance:
    """Largest difference of an exported file from the model.

    Attributes:
        maps: Largest difference of a map, relative to its largest value.
        iou: Smallest overlap of two boxes that count as one detection.
        score: Largest difference of their scores.
        unmatched: Largest share of detections without a partner.
    """

    maps: float
    iou: float
    score: float
    unmatched: float


TOLERANCES: Mapping[str, Tolerance] = MappingProxyType(
    {
        "float32": Tolerance(1e-4, 0.99, 1e-3, 0.0),
        # ten and eight bits of fraction, through some fifty layers
        "float16": Tolerance(2e-2, 0.9, 0.05, 0.1),
        "bfloat16": Tolerance(1e-1, 0.8, 0.15, 0.25),
        # filters in 8 bits, and 21 levels for a standard deviation of activations
        INT8: Tolerance(1.5e-1, 0.75, 0.2, 0.3),
    }
)


@dataclass(frozen=True)
class ExportSettings:
    """How a model is exported.

    Args:
        format: A key of ``FORMATS``.
        image_size: The only (height, width) that the file takes; None for any.
        precision: What the BiT network computes in; the layers around it stay in float32.
        with_preprocessing: Whether the file takes an image as it is read, uint8 [H, W, 3], RGB.
        with_nms: Whether a detector's file returns detections; otherwise it returns scores and
            boxes of all candidates.

    Raises:
        ValueError: A value is unknown, or the format does not have this precision.
    """

    format: str
    image_size: tuple[int, int] | None = None
    precision: str = "float32"
    with_preprocessing: bool = False
    with_nms: bool = True

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ValueError(f"the format must be one of {', '.join(FORMATS)}, got {self.format!r}")
        if self.precision not in TOLERANCES:
            raise ValueError(
                f"the precision must be one of {', '.join(TOLERANCES)}, got {self.precision!r}"
            )
        precisions = FORMATS[self.format].precisions
        if self.precision not in precisions:
            raise ValueError(
                f"{self.format} takes {' or '.join(precisions)}, got {self.precision}; "
                f"{', '.join(n for n, f in FORMATS.items() if self.precision in f.precisions)} "
                "take it"
            )
        if self.image_size is not None and min(self.image_size) < 1:
            raise ValueError(f"an image size must be two positive numbers, got {self.image_size}")

    @property
    def tolerance(self) -> Tolerance:
        """How far the file may be from the model."""
        tolerance = TOLERANCES[self.precision]
        if self.with_preprocessing and self.format == "openvino":
            # It computes a bicubic filter's weights in float32, where Pillow takes float64: two of
            # 10,000 values get the neighbouring one of the 256 levels.
            return replace(tolerance, maps=max(tolerance.maps, 1e-3))
        return tolerance


def check_target(path: Path, format_name: str) -> None:
    """Checks where a file of a format is to be written.

    Raises:
        ValueError: The name has another suffix than the format's, or is that of a folder.
    """
    suffixes = FORMATS[format_name].suffixes
    if path.suffix not in suffixes:
        raise ValueError(
            f"a file of format {format_name} is named *{' or *'.join(suffixes)}, got {path}"
        )
    if path.is_dir():
        raise ValueError(f"the file to write is a folder: {path}; name a file in it")
