"""BitBackbone: the network as a multi-stage feature extractor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from bit_backbone import checkpoints
from bit_backbone.checkpoints.mixin import PretrainedMixin
from bit_backbone.config import BitConfig, warn_of_random_weights
from bit_backbone.network import BitNetwork
from bit_backbone.network.layers import GroupNormAct
from bit_backbone.utils.empty_weights import init_empty_weights

if TYPE_CHECKING:
    from bit_backbone.checkpoints.sources import SourceLike

__all__ = ["BitBackbone", "FeatureInfo"]


@dataclass(frozen=True)
class FeatureInfo:
    """One output of a backbone.

    Attributes:
        name: "stem", "stage1" .. "stageN".
        index: 0 .. N.
        channels: Channels of the feature map.
        stride: Input pixels per feature pixel.
    """

    name: str
    index: int
    channels: int
    stride: int


class BitBackbone(BitNetwork, PretrainedMixin):
    """BiT as a backbone: images in, a dict of feature maps out.

    Builds and runs nothing after the deepest requested output, so every parameter takes part in
    every forward. ``feature_norm`` decides what an output is:

    * "none": the raw residual sum, as in timm and transformers; signed and unbounded.
    * "preact": the sum after the norm and activation of the following unit (after the last stage:
      the network's final norm). With published weights these norms are pretrained.
    * "groupnorm": the raw sum after a new GroupNorm per output, ``feature_norms``.

    Example:
        >>> backbone = BitBackbone("R50x1", out_indices=[1, 2, 3])
        >>> features = backbone(torch.rand(1, 3, 480, 640) * 2 - 1)
        >>> {name: tuple(f.shape) for name, f in features.items()}
        {'stage1': (1, 256, 120, 160), 'stage2': (1, 512, 60, 80), 'stage3': (1, 1024, 30, 40)}

    Attributes:
        config: The BitConfig.
        out_features: Names of the outputs, shallow to deep.
        out_indices: Their indices: 0 the stem, 1 .. N the stages.
        channels: Their channels.
        strides: Their strides, in input pixels.
        feature_info: All of this as one FeatureInfo per output.

    Args:
        config: A BitConfig, the name of a variant ("R101x3"), or None for R50x1.
        weights: A checkpoint of this network to load: anything that
            ``bit_backbone.checkpoints.load`` takes, also
            ``Source(path, part="state_dict_ema")``. None for random weights.
        **overrides: Arguments of BitConfig that differ from ``config``.

    Raises:
        ValueError: An argument of the configuration breaks a rule.
        CheckpointError: ``weights`` cannot be found, fetched or read, or belong to another network.
    """

    def __init__(
        self,
        config: BitConfig | str | None = None,
        *,
        weights: SourceLike | None = None,
        **overrides: Any,
    ) -> None:
        warn_of_random_weights(config, weights, 'load them with weights="{name}"')
        config = BitConfig.resolve(config, **overrides)
        names, indices = config.out_features, config.out_indices
        assert names is not None  # BitConfig resolves both
        assert indices is not None
        with init_empty_weights(when=weights is not None):
            super().__init__(config, last=indices[-1], norm=config.feature_norm == "preact")
            self.feature_norms = _fresh_norms(config)
        self.out_features = tuple(names)
        self.out_indices = tuple(indices)
        self.channels = tuple(config.channels[i] for i in indices)
        self.strides = tuple(config.strides[i] for i in indices)
        outputs = zip(names, indices, self.channels, self.strides, strict=True)
        self.feature_info = tuple(FeatureInfo(*output) for output in outputs)
        self._names = list(names)
        if weights is not None:
            checkpoints.load(self, weights)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Returns the requested feature maps, shallow to deep.

        Args:
            images: [N, num_channels, H, W], floating point, RGB, ``(pixels / 255 - 0.5) / 0.5``.

        Returns:
            A map [N, channels, ~H / stride, ~W / stride] for each name in ``out_features``.

        Raises:
            ValueError: ``images`` has another rank, channel count or an integer dtype.
        """
        return self.taps(images)

    def taps(self, images: Tensor) -> dict[str, Tensor]:
        """Does what ``forward`` does; TorchScript has no ``super().forward`` for subclasses."""
        if self.norm is not None:
            return self.activated_taps(images, self._names)
        features = self.raw_taps(images, self._names)
        if self.feature_norms is not None:
            for name, norm in self.feature_norms.items():
                features[name] = norm(features[name])
        return features

    def freeze(self, at: int) -> BitBackbone:
        """Freezes the first ``at`` of stem, stage1 .. stageN, and unfreezes the rest.

        Args:
            at: 0 nothing, 1 the stem, 2 the stem and stage1, .. N + 1 everything (with ``norm``,
                but never the fresh ``feature_norms``): detectron2's FREEZE_AT.

        Returns:
            The backbone itself.

        Raises:
            ValueError: ``at`` is not in [0, N + 1].
        """
        names = self.config.stage_names
        if isinstance(at, bool) or not isinstance(at, int) or not 0 <= at <= len(names):
            raise ValueError(
                f"freeze(at) must be in [0, {len(names)}], the number of first parts of "
                f"{', '.join(names)} to freeze, got {at!r}"
            )
        last = self.out_indices[-1]
        for index, name in enumerate(names[: last + 1]):
            self.get_submodule(name).requires_grad_(index >= at)
        if self.norm is not None:
            # It is the first norm of the stage that follows, or, after the last, belongs to that.
            self.norm.requires_grad_(min(last + 1, len(names) - 1) >= at)
        return self


def _fresh_norms(config: BitConfig) -> nn.ModuleDict | None:
    if config.feature_norm != "groupnorm":
        return None
    assert config.out_features is not None
    channels = dict(zip(config.stage_names, config.channels, strict=True))
    return nn.ModuleDict(
        {n: GroupNormAct(config.num_groups, channels[n], act=None) for n in config.out_features}
    )
