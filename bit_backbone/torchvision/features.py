"""The backbones of torchvision's models: with renamed outputs, and with a feature pyramid."""

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, LastLevelMaxPool

from bit_backbone.backbone import BitBackbone
from bit_backbone.config import BitConfig, warn_of_random_weights
from bit_backbone.torchvision import defaults
from bit_backbone.torchvision.body import (
    WeightsSource,
    build_body,
    check_returned_layers,
    dense_config,
    set_trainable_layers,
)

__all__ = ["BitFPNBackbone", "RenamedBackbone", "bit_fpn_backbone"]


class RenamedBackbone(nn.Module):
    """A BitBackbone, ``body``, whose outputs have the names that a host expects.

    Args:
        body: The backbone.
        names: The new name of each of its outputs, shallow to deep.
    """

    def __init__(self, body: BitBackbone, names: Sequence[str]) -> None:
        super().__init__()
        self.body = body
        self.names = list(names)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Maps images [N, C, H, W] to the renamed feature maps, shallow to deep."""
        renamed: dict[str, Tensor] = {}
        for name, feature in zip(self.names, self.body(images).values()):  # noqa: B905 (TorchScript)
            renamed[name] = feature
        return renamed


class BitFPNBackbone(nn.Module):
    """A BitBackbone, ``body``, under torchvision's FeaturePyramidNetwork, ``fpn``.

    Takes the place of torchvision's BackboneWithFPN in any of its detectors.

    Attributes:
        out_channels: Channels of every level.

    Args:
        body: The backbone; its strides must double from output to output.
        out_channels: Channels of every level.
        extra_blocks: Module that makes the levels after the deepest output.
        norm_layer: Called with ``out_channels`` for the norm after every convolution of the
            pyramid; None for none.

    Raises:
        ValueError: The strides do not double.
    """

    def __init__(
        self,
        body: BitBackbone,
        out_channels: int,
        extra_blocks: ExtraFPNBlock,
        norm_layer: Callable[..., nn.Module] | None,
    ) -> None:
        super().__init__()
        _check_strides_double(body)
        self.body = body
        self.fpn = FeaturePyramidNetwork(
            list(body.channels), out_channels, extra_blocks=extra_blocks, norm_layer=norm_layer
        )
        self.out_channels = out_channels

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Maps images [N, C, H, W] to levels [N, out_channels, ~H / stride, ~W / stride].

        Returns:
            The levels "0", "1", .., finest first, then those of ``extra_blocks`` ("pool").
        """
        levels: dict[str, Tensor] = {}
        for index, feature in enumerate(self.body(images).values()):
            levels[str(index)] = feature
        return self.fpn(levels)


def bit_fpn_backbone(
    variant: BitConfig | str = "R50x1",
    *,
    weights: WeightsSource | None = None,
    trainable_layers: int | None = None,
    returned_layers: Sequence[int] | None = None,
    extra_blocks: ExtraFPNBlock | None = None,
    norm_layer: Callable[..., nn.Module] | None = defaults.FPN_NORM_LAYER,
    feature_norm: str | None = None,
    out_channels: int = defaults.FPN_OUT_CHANNELS,
    progress: bool = True,
) -> BitFPNBackbone:
    """Builds BiT with a feature pyramid, for any of torchvision's detectors.

    Example:
        >>> backbone = bit_fpn_backbone("R50x1")
        >>> {k: tuple(v.shape[2:]) for k, v in backbone(torch.rand(1, 3, 64, 96)).items()}
        {'0': (16, 24), '1': (8, 12), '2': (4, 6), '3': (2, 3), 'pool': (1, 2)}
        >>> model = FasterRCNN(backbone, num_classes=91, image_mean=[0.5] * 3, image_std=[0.5] * 3)

    Args:
        variant: The name of a published network ("R101x3") or a BitConfig.
        weights: Pretrained weights of the network, whose head is left out: a member of a weights
            enum or its name, a name of the catalog ("BiT-M-R50x1") or the path of a checkpoint.
            None for random ones.
        trainable_layers: How many of stage4, stage3, stage2, stage1 and the stem train, counted in
            this order; the others are frozen. The pre-activation norm after a stage goes with
            the stage it belongs to, fresh norms and the pyramid always train. None: 3 with
            ``weights``, otherwise everything.
        returned_layers: The stages under the pyramid, 1 to 4, ascending. None: all.
        extra_blocks: Module that makes the levels after the deepest stage. None: LastLevelMaxPool.
        norm_layer: Called with ``out_channels`` for the norm after every convolution of the
            pyramid (``functools.partial(nn.GroupNorm, 32)``); None for none.
        feature_norm: The ``feature_norm`` of BitConfig. None: a BitConfig's own, and for the name
            of a variant ``defaults.FEATURE_NORM``.
        out_channels: Channels of every level.
        progress: Whether to show the progress of a download.

    Returns:
        A module with ``out_channels`` that maps [N, C, H, W] to the levels "0" .. "3" and "pool".

    Raises:
        ValueError: An argument is out of its range, or the strides of ``returned_layers`` do not
            double, as under a reduced output stride.
        CheckpointError: ``weights`` cannot be found, read or matched (a ValueError).
    """
    warn_of_random_weights(variant, weights, defaults.ASK_FOR_WEIGHTS)
    config = dense_config(variant, feature_norm)
    body = build_body(config, check_returned_layers(returned_layers, config), weights, progress)
    if extra_blocks is None:
        extra_blocks = LastLevelMaxPool()
    backbone = BitFPNBackbone(body, out_channels, extra_blocks, norm_layer)
    if trainable_layers is None and weights is not None:
        trainable_layers = defaults.TRAINABLE_LAYERS
    if trainable_layers is not None:
        set_trainable_layers(body, trainable_layers)
    return backbone


def _check_strides_double(body: BitBackbone) -> None:
    """Rejects what torchvision accepts: its poolers and anchors assume that strides double."""
    if any(2 * fine != coarse for fine, coarse in pairwise(body.strides)):
        raise ValueError(
            "the strides of a feature pyramid must double from level to level, got "
            f"{body.strides} for {body.out_features} (output_stride={body.config.output_stride}); "
            "leave out the stages that keep their predecessor's stride with returned_layers, or "
            "use output_stride=32"
        )
