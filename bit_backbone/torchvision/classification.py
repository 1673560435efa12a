"""Classifiers as torchvision has them: images in, logits out, built by ``bit_r50x1`` and so on."""

# No "from __future__ import annotations": get_model_weights reads the builders' annotations.

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from bit_backbone import checkpoints
from bit_backbone.checkpoints.fetching import progress_bars
from bit_backbone.config import BitConfig
from bit_backbone.heads import BitForImageClassification
from bit_backbone.torchvision.registry import register
from bit_backbone.torchvision.weights import (
    BiT_R50x1_Weights,
    BiT_R50x3_Weights,
    BiT_R101x1_Weights,
    BiT_R101x3_Weights,
    BiT_R152x2_Weights,
    BiT_R152x4_Weights,
    BitWeights,
)
from bit_backbone.utils.empty_weights import init_empty_weights

__all__ = [
    "BitClassifier",
    "bit_r50x1",
    "bit_r50x3",
    "bit_r101x1",
    "bit_r101x3",
    "bit_r152x2",
    "bit_r152x4",
]


class BitClassifier(BitForImageClassification):
    """BitForImageClassification with torchvision's interface; the state dict is the same."""

    # TorchScript compiles properties, and reads the annotations of the nearest class that has any:
    # it understands neither the configuration nor the base's union type.
    __jit_unused_properties__ = BitForImageClassification.__jit_unused_properties__ | {"num_labels"}
    _last: str

    def __init__(self, config: BitConfig) -> None:
        super().__init__(config)
        self._last = config.stage_names[-1]

    def forward(self, images: Tensor) -> Tensor:  # type: ignore[override]
        """Maps images [N, num_channels, H, W], normalised, to logits [N, num_labels]."""
        x = self.raw_taps(images, [self._last])[self._last]
        if self.norm is not None:
            x = self.norm(x)
        return self.classifier(F.adaptive_avg_pool2d(x, 1).flatten(1))


@register
def bit_r50x1(
    *, weights: BiT_R50x1_Weights | str | None = None, progress: bool = True, **kwargs: Any
) -> BitClassifier:
    """Builds BiT-R50x1 as a classifier.

    Args:
        weights: What to load, see ``BiT_R50x1_Weights``; None for random weights.
        progress: Whether to show the progress of a download.
        **kwargs: ``num_classes``, and arguments of BitConfig.

    Raises:
        ValueError: An argument is out of its range, or ``num_classes`` is not that of the weights.
        CheckpointError: The weights cannot be fetched (a ValueError).
    """
    return _classifier("R50x1", BiT_R50x1_Weights.verify(weights), progress, kwargs)


@register
def bit_r50x3(
    *, weights: BiT_R50x3_Weights | str | None = None, progress: bool = True, **kwargs: Any
) -> BitClassifier:
    """Builds BiT-R50x3 as a classifier; arguments and errors are those of ``bit_r50x1``."""
    return _classifier("R50x3", BiT_R50x3_Weights.verify(weights), progress, kwargs)


@register
def bit_r101x1(
    *, weights: BiT_R101x1_Weights | str | None = None, progress: bool = True, **kwargs: Any
) -> BitClassifier:
    """Builds BiT-R101x1 as a classifier; arguments and errors are those of ``bit_r50x1``."""
    return _classifier("R101x1", BiT_R101x1_Weights.verify(weights), progress, kwargs)


@register
def bit_r101x3(
    *, weights: BiT_R101x3_Weights | str | None = None, progress: bool = True, **kwargs: Any
) -> BitClassifier:
    """Builds BiT-R101x3 as a classifier; arguments and errors are those of ``bit_r50x1``."""
    return _classifier("R101x3", BiT_R101x3_Weights.verify(weights), progress, kwargs)


@register
def bit_r152x2(
    *, weights: BiT_R152x2_Weights | str | None = None, progress: bool = True, **kwargs: Any
) -> BitClassifier:
    """Builds BiT-R152x2 as a classifier; arguments and errors are those of ``bit_r50x1``."""
    return _classifier("R152x2", BiT_R152x2_Weights.verify(weights), progress, kwargs)


@register
def bit_r152x4(
    *, weights: BiT_R152x4_Weights | str | None = None, progress: bool = True, **kwargs: Any
) -> BitClassifier:
    """Builds BiT-R152x4 as a classifier; arguments and errors are those of ``bit_r50x1``."""
    return _classifier("R152x4", BiT_R152x4_Weights.verify(weights), progress, kwargs)


def _classifier(
    variant: str, weights: BitWeights | None, progress: bool, kwargs: dict[str, Any]
) -> BitClassifier:
    num_classes = kwargs.pop("num_classes", None)
    if weights is None:
        labels = {} if num_classes is None else {"num_labels": num_classes}
        return BitClassifier(BitConfig.from_variant(variant, **labels, **kwargs))
    published = weights.meta["num_classes"]
    if num_classes not in (None, published):
        raise ValueError(
            f"num_classes must be {published} with {weights}, got {num_classes}; leave it out and "
            "call reset_classifier(num_classes) on the model"
        )
    with init_empty_weights():
        model = BitClassifier(BitConfig.from_variant(variant, num_labels=published, **kwargs))
    with progress_bars(progress):
        checkpoints.load(model, weights.meta["checkpoint"])
    return model
