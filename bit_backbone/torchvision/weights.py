"""The weights enums: the published weights of each builder, from the catalog of checkpoints."""

from os import PathLike
from typing import Any

from torch import Tensor
from torchvision.models._api import Weights, WeightsEnum
from torchvision.models._meta import _IMAGENET_CATEGORIES

from bit_backbone.checkpoints import Source, catalog
from bit_backbone.checkpoints.fetching import progress_bars
from bit_backbone.checkpoints.sources import open_checkpoint
from bit_backbone.config import VARIANTS, BitConfig
from bit_backbone.torchvision.transforms import classification_transforms

__all__ = [
    "BiT_R50x1_Weights",
    "BiT_R50x3_Weights",
    "BiT_R101x1_Weights",
    "BiT_R101x3_Weights",
    "BiT_R152x2_Weights",
    "BiT_R152x4_Weights",
    "BitWeights",
    "DeepLabV3_BiT_Weights",
    "FCN_BiT_Weights",
    "FCOS_BiT_FPN_Weights",
    "FasterRCNN_BiT_FPN_Weights",
    "KeypointRCNN_BiT_FPN_Weights",
    "MaskRCNN_BiT_FPN_Weights",
    "RetinaNet_BiT_FPN_Weights",
    "checkpoint_of",
]

# torchvision's own enums are named so.
# ruff: noqa: N801

# (parameters without the head, channels of the head's input)
_PARAMETERS = {
    "R50x1": (23_500_352, 2048),
    "R50x3": (211_174_080, 6144),
    "R101x1": (42_492_480, 2048),
    "R101x3": (381_789_888, 6144),
    "R152x2": (232_238_208, 4096),
    "R152x4": (928_340_224, 8192),
}
_RECIPE = "https://github.com/google-research/big_transfer"
_DISTILLATION_RECIPE = "https://arxiv.org/abs/2106.05237"
_CATEGORIES_21K = "https://storage.googleapis.com/bit_models/imagenet21k_wordnet_lemmas.txt"


class BitWeights(WeightsEnum):
    """The base of this package's weights enums; ``meta["checkpoint"]`` is the catalog's name."""

    @classmethod
    def verify(cls, obj: Any) -> Any:
        """Returns the member for a member, its name or its full name; None for None.

        Raises:
            ValueError: There is no such member.
        """
        if obj is None or isinstance(obj, cls):
            return obj
        name = obj.removeprefix(f"{cls.__name__}.") if isinstance(obj, str) else ""
        if name in cls.__members__:
            return cls.__members__[name]
        members = ", ".join(cls.__members__)
        raise ValueError(
            f"weights must be a member of {cls.__name__}, "
            f"{members or 'for which nothing is published'},"
            f" got {obj!r}; for weights of your own pass weights=None and use load_state_dict"
        )

    def get_state_dict(self, *args: Any, progress: bool = True, **kwargs: Any) -> dict[str, Tensor]:
        """Fetches the checkpoint and returns its tensors under this package's names.

        Args:
            *args: Not used: torchvision passes on torch.hub's arguments.
            progress: Whether to show the progress of the download.
            **kwargs: Not used either.

        Raises:
            CheckpointError: It cannot be fetched.
        """
        with (
            progress_bars(progress),
            open_checkpoint(self.meta["checkpoint"]) as checkpoint,
        ):
            return {name: checkpoint.read(name) for name in checkpoint.specs}


def _published(name: str) -> Weights:
    """Describes a checkpoint of the catalog as torchvision describes its weights."""
    checkpoint = catalog()[name]
    body, features = _PARAMETERS[checkpoint.variant]
    meta = {
        "checkpoint": name,
        "num_params": body + checkpoint.num_labels * (features + 1),
        "num_classes": checkpoint.num_labels,
        "min_size": (1, 1),
        "license": checkpoint.licence,
        "recipe": _DISTILLATION_RECIPE if name.startswith("distill/") else _RECIPE,
        "_docs": f"BiT-{checkpoint.variant}, trained on {checkpoint.data}.",
        "_metrics": {},
    }
    if checkpoint.num_labels == len(_IMAGENET_CATEGORIES):
        meta["categories"] = _IMAGENET_CATEGORIES
    else:
        meta["categories_url"] = _CATEGORIES_21K
    if checkpoint.top1 is not None:
        meta["_metrics"] = {"ImageNet-1K": {"acc@1": checkpoint.top1, "acc@5": checkpoint.top5}}
    return Weights(checkpoint.location, classification_transforms(checkpoint.preset), meta)


class BiT_R50x1_Weights(BitWeights):
    """What is published for ``bit_r50x1``; the default is BiT-M fine-tuned on ImageNet-1k."""

    IMAGENET1K_BIT_S = _published("BiT-S-R50x1")
    IMAGENET21K_BIT_M = _published("BiT-M-R50x1")
    IMAGENET1K_BIT_M = _published("BiT-M-R50x1-ILSVRC2012")
    IMAGENET1K_DISTILLED_224 = _published("distill/R50x1_224")
    IMAGENET1K_DISTILLED_160 = _published("distill/R50x1_160")
    DEFAULT = IMAGENET1K_BIT_M


class BiT_R50x3_Weights(BitWeights):
    """What is published for ``bit_r50x3``; the default is BiT-M fine-tuned on ImageNet-1k."""

    IMAGENET1K_BIT_S = _published("BiT-S-R50x3")
    IMAGENET21K_BIT_M = _published("BiT-M-R50x3")
    IMAGENET1K_BIT_M = _published("BiT-M-R50x3-ILSVRC2012")
    DEFAULT = IMAGENET1K_BIT_M


class BiT_R101x1_Weights(BitWeights):
    """What is published for ``bit_r101x1``; the default is BiT-M fine-tuned on ImageNet-1k."""

    IMAGENET1K_BIT_S = _published("BiT-S-R101x1")
    IMAGENET21K_BIT_M = _published("BiT-M-R101x1")
    IMAGENET1K_BIT_M = _published("BiT-M-R101x1-ILSVRC2012")
    DEFAULT = IMAGENET1K_BIT_M


class BiT_R101x3_Weights(BitWeights):
    """What is published for ``bit_r101x3``; the default is BiT-M fine-tuned on ImageNet-1k."""

    IMAGENET1K_BIT_S = _published("BiT-S-R101x3")
    IMAGENET21K_BIT_M = _published("BiT-M-R101x3")
    IMAGENET1K_BIT_M = _published("BiT-M-R101x3-ILSVRC2012")
    DEFAULT = IMAGENET1K_BIT_M


class BiT_R152x2_Weights(BitWeights):
    """What is published for ``bit_r152x2``; the default is BiT-M fine-tuned on ImageNet-1k."""

    IMAGENET1K_BIT_S = _published("BiT-S-R152x2")
    IMAGENET21K_BIT_M = _published("BiT-M-R152x2")
    IMAGENET1K_BIT_M = _published("BiT-M-R152x2-ILSVRC2012")
    IMAGENET1K_TEACHER_224 = _published("distill/R152x2_T_224")
    IMAGENET1K_TEACHER_384 = _published("distill/R152x2_T_384")
    DEFAULT = IMAGENET1K_BIT_M


class BiT_R152x4_Weights(BitWeights):
    """What is published for ``bit_r152x4``; the default is BiT-M fine-tuned on ImageNet-1k."""

    IMAGENET1K_BIT_S = _published("BiT-S-R152x4")
    IMAGENET21K_BIT_M = _published("BiT-M-R152x4")
    IMAGENET1K_BIT_M = _published("BiT-M-R152x4-ILSVRC2012")
    DEFAULT = IMAGENET1K_BIT_M


class FasterRCNN_BiT_FPN_Weights(BitWeights):
    """Weights of ``fasterrcnn_bit_fpn``: none are published."""


class MaskRCNN_BiT_FPN_Weights(BitWeights):
    """Weights of ``maskrcnn_bit_fpn``: none are published."""


class KeypointRCNN_BiT_FPN_Weights(BitWeights):
    """Weights of ``keypointrcnn_bit_fpn``: none are published."""


class RetinaNet_BiT_FPN_Weights(BitWeights):
    """Weights of ``retinanet_bit_fpn``: none are published."""


class FCOS_BiT_FPN_Weights(BitWeights):
    """Weights of ``fcos_bit_fpn``: none are published."""


class DeepLabV3_BiT_Weights(BitWeights):
    """Weights of ``deeplabv3_bit``: none are published."""


class FCN_BiT_Weights(BitWeights):
    """Weights of ``fcn_bit``: none are published."""


CLASSIFIERS: dict[str, type[BitWeights]] = {
    "R50x1": BiT_R50x1_Weights,
    "R50x3": BiT_R50x3_Weights,
    "R101x1": BiT_R101x1_Weights,
    "R101x3": BiT_R101x3_Weights,
    "R152x2": BiT_R152x2_Weights,
    "R152x4": BiT_R152x4_Weights,
}


def checkpoint_of(
    source: BitWeights | str | PathLike[str] | Source, config: BitConfig
) -> str | PathLike[str] | Source:
    """Returns the source of a backbone's weights, for ``checkpoints.load``.

    Args:
        source: A member of a weights enum, "BiT_R50x1_Weights.IMAGENET21K_BIT_M", the part after
            the point (which means the enum of the configuration's variant), or anything that
            ``checkpoints.load`` takes itself.
        config: The network that the weights are for.

    Raises:
        ValueError: The enum that is named has no such member.
    """
    if isinstance(source, str):
        source = _member(source, config) or source
    return source.meta["checkpoint"] if isinstance(source, BitWeights) else source


def _member(name: str, config: BitConfig) -> BitWeights | None:
    for variant, enum in CLASSIFIERS.items():
        if name.startswith(f"{enum.__name__}."):
            return enum.verify(name)
        is_variant = (tuple(config.depths), config.width_factor) == VARIANTS[variant]
        if is_variant and name in enum.__members__:
            return enum.__members__[name]
    return None
