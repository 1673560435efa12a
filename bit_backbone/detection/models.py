"""Detectors by their names in torchvision's registry, and what each is trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from inspect import signature
from typing import Any

import torchvision
from torch import nn
from torchvision.models.detection import FCOS, KeypointRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

import bit_backbone.torchvision  # noqa: F401 (registers the builders)
from bit_backbone.config import BitConfig

# Arguments that matter when a run begins, and not when its weights are read back.
_PRETRAINING = ("weights", "weights_backbone", "trainable_backbone_layers")


@dataclass(frozen=True)
class DetectorSpec:
    """A detector, as a run's folder records it.

    Attributes:
        name: Its builder's name in torchvision's registry, such as "fasterrcnn_bit_fpn".
        categories: Names of the classes, label 1 first.
        arguments: Further arguments of the builder, in JSON's terms; ``variant`` may be the dict of
            a BitConfig.
        keypoint_names: Names of the keypoints, for a detector that has them.

    Raises:
        ValueError: Nothing of that name is registered, or it is no BiT model.
    """

    name: str
    categories: tuple[str, ...]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    keypoint_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_name(self.name)

    def build(self, *, pretrained: bool = True) -> nn.Module:
        """Builds the detector.

        Args:
            pretrained: Load and freeze what the arguments say; not needed where the weights of a
                run follow.

        Raises:
            ValueError: The builder does not take the arguments, or builds no detector.
        """
        arguments = {k: v for k, v in self.arguments.items() if pretrained or k not in _PRETRAINING}
        if isinstance(arguments.get("variant"), Mapping):
            arguments["variant"] = BitConfig.from_dict(arguments["variant"])
        if self.keypoint_names:
            arguments["num_keypoints"] = len(self.keypoint_names)
        _check_arguments(self.name, arguments)
        model = torchvision.models.get_model(
            self.name, num_classes=len(self.categories) + 1, **arguments
        )
        if not isinstance(model, GeneralizedRCNN | RetinaNet | FCOS):
            raise ValueError(
                f"{self.name} is no detector; the BiT detectors are {', '.join(detectors())}"
            )
        return model

    def to_dict(self) -> dict[str, Any]:
        """Returns the attributes in JSON's terms."""
        return {
            "name": self.name,
            "categories": list(self.categories),
            "arguments": dict(self.arguments),
            "keypoint_names": list(self.keypoint_names),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DetectorSpec:
        """Reads what ``to_dict`` gave."""
        names = tuple(values["categories"]), tuple(values["keypoint_names"])
        return cls(values["name"], names[0], dict(values["arguments"]), names[1])


def detectors() -> list[str]:
    """Returns the names of the registered BiT detectors."""
    return list(torchvision.models.list_models(include="*_bit_*fpn"))


def check_name(name: str) -> None:
    """Raises ValueError unless a BiT detector of this name is registered."""
    if name not in detectors():
        raise ValueError(f"the BiT detectors are {', '.join(detectors())}; got {name!r}")


def needs_masks(name: str) -> bool:
    """Whether a registered detector is trained on masks."""
    return _class_of(name) is MaskRCNN


def needs_keypoints(name: str) -> bool:
    """Whether a registered detector is trained on keypoints."""
    return _class_of(name) is KeypointRCNN


def _check_arguments(name: str, arguments: Mapping[str, Any]) -> None:
    """Refuses arguments that nobody reads: torchvision's R-CNNs drop them silently."""
    builder = torchvision.models.get_model_builder(name)
    legal = {*signature(builder).parameters, *signature(_class_of(name)).parameters}
    legal |= {"size_divisible", "fixed_size"}  # read by GeneralizedRCNNTransform
    unknown = sorted(set(arguments) - legal)
    if unknown:
        taken = ", ".join(sorted(legal - {"backbone", "kwargs"}))
        raise ValueError(f"{name} does not take {', '.join(unknown)}; it takes {taken}")


def _class_of(name: str) -> Any:
    """What the builder says that it returns."""
    check_name(name)
    return torchvision.models.get_model_builder(name).__annotations__["return"]
