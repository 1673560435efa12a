"""What an exported file computes: tensors in, named tensors out, for each kind of model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.segmentation import FCN, DeepLabV3

from bit_backbone.backbone import BitBackbone
from bit_backbone.detection.segmenters import Segmenter, normalise
from bit_backbone.export.detectron2_model import Detectron2Detector
from bit_backbone.export.layers import portable
from bit_backbone.export.pixels import Pixels, ScaledPixels
from bit_backbone.export.settings import ExportSettings
from bit_backbone.heads import BitForImageClassification, BitModel
from bit_backbone.preprocessing import BitImageProcessor

DETECTORS = (GeneralizedRCNN, RetinaNet, FCOS)
EXAMPLE_SIZE = (192, 288)  # of an image at capture: unequal, and no size that a network has inside


@dataclass(frozen=True)
class Program:
    """A module that can be captured, and what it takes and gives.

    Attributes:
        module: Takes one tensor, returns a tuple of tensors.
        task: "classification", "features", "segmentation" or "detection".
        input_name: Of the tensor.
        example: A tensor to capture with.
        dynamic: The axes of it that may have any size.
        outputs: Names of the results.
    """

    module: nn.Module
    task: str
    input_name: str
    example: Tensor
    dynamic: tuple[int, ...]
    outputs: tuple[str, ...]

    @property
    def takes_batches(self) -> bool:
        """Whether the first axis counts images, as many as there are."""
        return self.example.ndim == 4 and 0 in self.dynamic


def task_of(model: nn.Module) -> str:
    """Returns what a model is for.

    Raises:
        ValueError: It is no model that can be exported.
    """
    if isinstance(model, (*DETECTORS, Detectron2Detector)):
        return "detection"
    if isinstance(model, (Segmenter, DeepLabV3, FCN)):
        return "segmentation"
    if isinstance(model, BitForImageClassification):
        return "classification"
    if isinstance(model, BitModel):
        return "features"
    if isinstance(model, BitBackbone) or isinstance(getattr(model, "body", None), BitBackbone):
        return "features"
    raise ValueError(
        "only a classifier, a backbone, a feature pyramid, a detector or a segmenter of this "
        f"package can be exported, got a {type(model).__name__}"
    )


def program_of(
    model: nn.Module, settings: ExportSettings, processor: BitImageProcessor | None
) -> Program:
    """Returns what a model's file computes.

    Args:
        model: In any mode; not changed.
        settings: Of the export.
        processor: The preprocessing of a classifier or backbone, for ``with_preprocessing``; None
            only for scale and normalisation.

    Raises:
        ValueError: The model cannot be exported, or not with these settings.
    """
    task = task_of(model)
    if isinstance(model, Detectron2Detector):
        from bit_backbone.export.detectron2_program import detectron2_program

        return detectron2_program(model, settings)
    if task == "detection":
        # Not above: of torchvision's operators only detectors need nms and roi_align.
        from bit_backbone.export.detectors import detector_program

        return detector_program(model, settings)
    if not settings.with_nms:
        raise ValueError(
            f"with_nms=False leaves out a detector's non-maximum suppression, and a model for "
            f"{task} has none; leave it at True"
        )
    plain = portable(model, getattr(torch, settings.precision))
    module, outputs = _maps(plain, _size(settings))
    if not settings.with_preprocessing:
        dynamic = _free(settings, 0, 2, 3)
        example = torch.rand(2 if 0 in dynamic else 1, 3, *_size(settings))
        return Program(module, task, "images", example, dynamic, outputs)
    module = nn.Sequential(_pixels(model, processor), module)
    example = torch.randint(0, 256, (*_size(settings), 3), dtype=torch.uint8)
    return Program(module, task, "image", example, _free(settings, 0, 1), outputs)


def _size(settings: ExportSettings) -> tuple[int, int]:
    return settings.image_size or EXAMPLE_SIZE


def _free(settings: ExportSettings, *axes: int) -> tuple[int, ...]:
    return () if settings.image_size else axes


def _pixels(model: nn.Module, processor: BitImageProcessor | None) -> nn.Module:
    if isinstance(model, Segmenter):
        return ScaledPixels()  # it normalises itself
    return Pixels(plain_processor() if processor is None else processor)


def plain_processor() -> BitImageProcessor:
    """Returns the preprocessing of a model that comes with none: scale and normalisation."""
    return BitImageProcessor(do_resize=False, do_center_crop=False)


def _maps(plain: nn.Module, size: tuple[int, int]) -> tuple[nn.Module, tuple[str, ...]]:
    """Returns a module that maps images to a tuple, and names for what is in it."""
    if isinstance(plain, BitForImageClassification):
        return Logits(plain), ("logits",)
    if isinstance(plain, BitModel):
        return Pooled(plain), ("last_hidden_state", "pooler_output")
    if isinstance(plain, Segmenter):
        return Labels(plain), ("semantic",)
    with torch.inference_mode():
        keys = tuple(plain(torch.rand(1, 3, *size)))
    return Values(plain, keys), tuple(map(output_name, keys))


def output_name(key: str) -> str:
    """Returns what a file calls an output: ONNX takes no number, as a pyramid's levels have."""
    return f"level{key}" if key.isdecimal() else key


class Values(nn.Module):
    """A network that returns a dict, as one that returns a tuple."""

    def __init__(self, network: nn.Module, keys: Sequence[str]) -> None:
        super().__init__()
        self.network, self.keys = network, tuple(keys)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Maps images [N, 3, H, W], normalised, to the network's values."""
        values = self.network(images)
        return tuple(values[key] for key in self.keys)


class Logits(nn.Module):
    """A classifier that returns only its logits."""

    def __init__(self, network: BitForImageClassification) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """Maps images [N, 3, H, W], normalised, to logits [N, K]."""
        found = self.network(images)
        return (found if isinstance(found, Tensor) else found.logits,)


class Pooled(nn.Module):
    """BitModel as a tuple."""

    def __init__(self, network: BitModel) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Maps images [N, 3, H, W], normalised, to the last map and the pooled features."""
        found = self.network(images, output_hidden_states=False, return_dict=True)
        return found.last_hidden_state, found.pooler_output


class Labels(nn.Module):
    """A segmenter of batches of images in 0..1."""

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__()
        self.network = segmenter.network

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """Maps images [N, 3, H, W] in 0..1 to labels, int64 [N, H, W]."""
        return (self.network(normalise(images))["out"].argmax(1),)
