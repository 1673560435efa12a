"""The steps every torchvision builder takes to its BitBackbone: configure, load, freeze."""

from collections.abc import Sequence
from os import PathLike

from torchvision.models.detection.backbone_utils import _validate_trainable_layers

from bit_backbone.backbone import BitBackbone
from bit_backbone.checkpoints import Source
from bit_backbone.checkpoints.fetching import progress_bars
from bit_backbone.config import BitConfig
from bit_backbone.torchvision import defaults
from bit_backbone.torchvision.weights import BitWeights, checkpoint_of

__all__ = [
    "WeightsSource",
    "build_body",
    "check_returned_layers",
    "dense_config",
    "set_trainable_layers",
    "validate_trainable_layers",
]

WeightsSource = BitWeights | str | PathLike[str] | Source


def dense_config(variant: BitConfig | str, feature_norm: str | None = None) -> BitConfig:
    """Returns the configuration that a dense-prediction builder works with.

    Args:
        variant: The name of a published network, or a configuration.
        feature_norm: Overrides the configuration's; None leaves it, and gives a network that is
            asked for by name ``defaults.FEATURE_NORM``.

    Raises:
        ValueError: No such variant or feature norm, or the variant is neither of the two.
    """
    if isinstance(variant, str):
        return BitConfig.from_variant(variant, feature_norm=feature_norm or defaults.FEATURE_NORM)
    if not isinstance(variant, BitConfig):
        raise ValueError(
            f"variant is a network's name or a BitConfig, got a {type(variant).__name__}; the "
            "builders make the network themselves"
        )
    return variant if feature_norm is None else variant.replace(feature_norm=feature_norm)


def check_returned_layers(layers: Sequence[int] | None, config: BitConfig) -> list[int]:
    """Returns the stages to tap; BitConfig checks their order.

    Raises:
        ValueError: A layer is not a stage.
    """
    last = len(config.stages)
    if layers is None:
        return list(range(1, last + 1))
    if not all(1 <= layer <= last for layer in layers):
        raise ValueError(
            f"returned_layers must be in [1, {last}], the stages of the network, got {list(layers)}"
        )
    return list(layers)


def build_body(
    config: BitConfig,
    out_indices: Sequence[int],
    weights: WeightsSource | None,
    progress: bool = True,
) -> BitBackbone:
    """Builds a backbone, with pretrained weights or random ones.

    Args:
        config: The network.
        out_indices: Its outputs.
        weights: A member of a weights enum or its name, a name of the catalog ("BiT-M-R50x1"), or
            the path of a file in any format that ``bit_backbone.checkpoints`` reads; whatever head
            it holds is left out. None for random weights.
        progress: Whether to show the progress of a download.

    Raises:
        CheckpointError: The weights cannot be found or read, or do not match the network.
    """
    source = None if weights is None else checkpoint_of(weights, config)
    with progress_bars(progress):
        return BitBackbone(config, weights=source, out_indices=out_indices)


def validate_trainable_layers(config: BitConfig, requested: int | None, pretrained: bool) -> int:
    """Returns how many layers shall train, by torchvision's rules for its detectors.

    Without pretrained weights everything trains, and asking for anything is warned of.

    Raises:
        ValueError: ``requested`` is not in [0, 5].
    """
    return _validate_trainable_layers(
        pretrained, requested, len(config.stage_names), defaults.TRAINABLE_LAYERS
    )


def set_trainable_layers(body: BitBackbone, count: int) -> None:
    """Freezes all but the ``count`` deepest of the stem and the stages.

    As in torchvision, stages that are not built count too: under ``returned_layers=[1, 2, 3]``
    the first layer to train is a stage4 that is not there.

    Raises:
        ValueError: ``count`` is not in [0, 5].
    """
    layers = len(body.config.stage_names)
    if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= layers:
        raise ValueError(
            f"trainable_layers must be in [0, {layers}], the number of last layers of "
            f"{', '.join(body.config.stage_names)} to train, got {count!r}"
        )
    body.freeze(layers - count)
