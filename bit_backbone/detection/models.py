"""Detectors and segmenters by their names in torchvision's registry, and the targets they need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torchvision
from torch import Tensor, nn
from torchvision.models.detection import FCOS, KeypointRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.segmentation import FCN, DeepLabV3

import bit_backbone.torchvision  # noqa: F401 (registers the builders)
from bit_backbone.checkpoints import Source
from bit_backbone.config import BitConfig
from bit_backbone.detection.segmenters import Segmenter
from bit_backbone.torchvision.arguments import check_arguments

# Arguments that matter when a run begins, and not when its weights are read back.
_PRETRAINING = ("weights", "weights_backbone", "trainable_backbone_layers")


@dataclass(frozen=True)
class DetectorSpec:
    """A detector or segmenter, as the folder of a run stores it.

    Attributes:
        name: Its builder's name in torchvision's registry, such as "fasterrcnn_bit_fpn".
        categories: Names of the classes, label 1 first.
        arguments: Further arguments of the builder, as JSON values; ``variant`` may be the dict of
            a BitConfig, and ``weights_backbone`` that of a ``bit_backbone.checkpoints.Source``.
        keypoint_names: Names of the keypoints, for a detector that has them.

    Raises:
        ValueError: No BiT detector or segmenter of that name is registered.
    """

    name: str
    categories: tuple[str, ...]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    keypoint_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_name(self.name)

    def build(self, *, pretrained: bool = True) -> nn.Module:
        """Builds the detector, or the segmenter in a ``Segmenter``.

        Args:
            pretrained: Whether to load and freeze what the arguments say; not needed if weights are
                loaded next.

        Raises:
            ValueError: The builder does not take the arguments, or builds something else.
        """
        arguments = {k: v for k, v in self.arguments.items() if pretrained or k not in _PRETRAINING}
        if isinstance(arguments.get("variant"), Mapping):
            arguments["variant"] = BitConfig.from_dict(arguments["variant"])
        if isinstance(arguments.get("weights_backbone"), Mapping):
            arguments["weights_backbone"] = Source(**arguments["weights_backbone"])
        if self.keypoint_names:
            arguments["num_keypoints"] = len(self.keypoint_names)
        check_arguments(torchvision.models.get_model_builder(self.name), arguments)
        model = torchvision.models.get_model(
            self.name, num_classes=len(self.categories) + 1, **arguments
        )
        if isinstance(model, DeepLabV3 | FCN):
            return Segmenter(model)
        if not isinstance(model, GeneralizedRCNN | RetinaNet | FCOS):
            raise ValueError(f"{self.name} builds a {type(model).__name__}; {_known()}")
        return model

    def to_dict(self) -> dict[str, Any]:
        """Returns the attributes as JSON values."""
        return {
            "name": self.name,
            "categories": list(self.categories),
            "arguments": dict(self.arguments),
            "keypoint_names": list(self.keypoint_names),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DetectorSpec:
        """Reads the result of ``to_dict``."""
        names = tuple(values["categories"]), tuple(values["keypoint_names"])
        return cls(values["name"], names[0], dict(values["arguments"]), names[1])


def detectors() -> list[str]:
    """Returns the names of the registered BiT detectors."""
    return list(torchvision.models.list_models(include="*_bit_*fpn"))


def segmenters() -> list[str]:
    """Returns the names of the registered BiT segmenters."""
    names = torchvision.models.list_models(include="*_bit*")
    return [name for name in names if _return_type(name) in (DeepLabV3, FCN)]


def classifiers() -> list[str]:
    """Returns the names of the registered BiT classifiers."""
    return list(torchvision.models.list_models(include="bit_*"))


def check_name(name: str) -> None:
    """Raises ValueError unless a BiT detector or segmenter of this name is registered."""
    if name in classifiers():
        raise ValueError(
            f"{name} classifies whole images, and COCO's format describes objects in them; train "
            "it on folders of images by: bit-backbone finetune"
        )
    if name not in detectors() + segmenters():
        raise ValueError(f"{_known()}; got {name!r}")


def check_image(model: nn.Module, image: Tensor) -> None:
    """Rejects an image that has no pixels left after the detector's resizing.

    Args:
        model: A detector or ``Segmenter``.
        image: [3, H, W].

    Raises:
        ValueError: The image is too thin.
    """
    resizing: Any = getattr(model, "transform", None)
    if resizing is None or resizing.fixed_size is not None:
        return
    height, width = image.shape[-2:]
    shorter, longer = sorted((height, width))
    # as torchvision computes it, to the bit
    scale = min(resizing.min_size[-1] / shorter, resizing.max_size / longer)
    if int(shorter * scale) < 1:
        raise ValueError(
            f"an image of {width}x{height} is too thin: the detector makes its longer side at most "
            f"{resizing.max_size} pixels, which leaves none of the shorter one; cut it into pieces"
        )


def _known() -> str:
    return (
        f"the BiT detectors are {', '.join(detectors())}, the BiT segmenters "
        f"{', '.join(segmenters())}"
    )


def is_segmenter(name: str) -> bool:
    """Whether a registered model is trained on label maps."""
    check_name(name)
    return name in segmenters()


def needs_masks(name: str) -> bool:
    """Whether a registered detector is trained on masks."""
    return _class_of(name) is MaskRCNN


def needs_keypoints(name: str) -> bool:
    """Whether a registered detector is trained on keypoints."""
    return _class_of(name) is KeypointRCNN


def _class_of(name: str) -> Any:
    """What the builder says that it returns."""
    check_name(name)
    return _return_type(name)


def _return_type(name: str) -> Any:
    return torchvision.models.get_model_builder(name).__annotations__["return"]
