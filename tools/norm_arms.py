"""The kinds of detector that ``compare_norms.py`` compares, and how they are built."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck
from torchvision.ops import FrozenBatchNorm2d

from bit_backbone.config import StageSpec
from bit_backbone.network import BitNetwork
from bit_backbone.network.layers import GroupNormAct
from bit_backbone.torchvision.tiny import fasterrcnn_bit_tiny_fpn

FPN_GROUPS = 8  # of 64 channels: as wide as the 32 of 256 that detectron2's "GN" makes


class BatchNormAct(nn.BatchNorm2d):
    """BatchNorm and an activation, in the place of a GroupNormAct."""

    def __init__(self, norm: GroupNormAct) -> None:
        super().__init__(norm.num_channels, norm.eps)
        self.act = norm.act

    def forward(self, x: Tensor) -> Tensor:
        """Normalise and activate [N, C, H, W]."""
        return self.act(super().forward(x))


def plain_conv(conv: nn.Conv2d) -> nn.Conv2d:
    """Return a convolution of the same shape that uses its filters as they are."""
    plain = nn.Conv2d(
        conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, bias=False
    )
    nn.init.kaiming_normal_(plain.weight, mode="fan_out", nonlinearity="relu")
    return plain


def use_batch_norm(network: nn.Module, standardize: bool) -> None:
    """Turn every GroupNorm into a BatchNorm and, unless ``standardize``, every filter plain."""
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, GroupNormAct):
                setattr(parent, name, BatchNormAct(child))
            elif isinstance(child, nn.Conv2d) and not standardize:
                setattr(parent, name, plain_conv(child))


def use_resnet(network: BitNetwork) -> None:
    """Replace stem and stages by those of torchvision's ResNet with the same widths and depths.

    Its BatchNorms learn their statistics until ``freeze_batch_norms``.
    """
    config = network.config
    first = nn.Conv2d(config.num_channels, config.stem_channels, 7, stride=2, padding=3, bias=False)
    norm, pool = nn.BatchNorm2d(config.stem_channels), nn.MaxPool2d(3, stride=2, padding=1)
    network.stem = nn.Sequential(first, norm, nn.ReLU(inplace=True), pool)
    for stage in config.stages:
        setattr(network, stage.name, resnet_stage(stage))
    network.norm = None  # its units end in an activation, and need none
    for conv in network.modules():
        if isinstance(conv, nn.Conv2d):
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")


def resnet_stage(stage: StageSpec) -> nn.Sequential:
    """Return torchvision's units for a stage; the first one projects the shortcut."""
    cin, cmid, cout = stage.in_channels, stage.bottleneck_channels, stage.channels
    conv = nn.Conv2d(cin, cout, 1, stride=stage.stride, bias=False)
    units = [Bottleneck(cin, cmid, stage.stride, nn.Sequential(conv, nn.BatchNorm2d(cout)))]
    units += [Bottleneck(cout, cmid) for _ in range(1, stage.depth)]
    return nn.Sequential(*units)


def freeze_batch_norms(network: nn.Module) -> None:
    """Turn every BatchNorm into torchvision's frozen one, with the statistics it has learned."""
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm2d):
                frozen = FrozenBatchNorm2d(child.num_features, child.eps)
                frozen.load_state_dict(child.state_dict())
                setattr(parent, name, frozen)


@dataclass(frozen=True)
class Arm:
    """One kind of detector that is compared.

    Attributes:
        title: As the table calls it.
        feature_norm: Of the backbone.
        pyramid_norm: Whether GroupNorm follows the pyramid's convolutions.
        change: Turns the backbone into another kind of network; None leaves BiT.
        network: Name of that kind; arms that share it share their pre-training.
        freeze: Called with a pre-trained backbone before the detector trains.
    """

    title: str
    feature_norm: str = "none"
    pyramid_norm: bool = False
    change: Callable[[Any], None] | None = None
    network: str = "bit"
    freeze: Callable[[nn.Module], None] | None = None


NORMS = ("none", "preact", "groupnorm")
ARMS = {
    **{norm: Arm(f"feature_norm {norm}", norm) for norm in NORMS},
    "none+gn": Arm("feature_norm none, GroupNorm in the FPN", "none", True),
    "preact+gn": Arm("feature_norm preact, GroupNorm in the FPN", "preact", True),
    "bn": Arm(
        "BatchNorm, plain convolutions",
        change=partial(use_batch_norm, standardize=False),
        network="bn",
    ),
    "bn+ws": Arm(
        "BatchNorm, weight standardization",
        change=partial(use_batch_norm, standardize=True),
        network="bn+ws",
    ),
    "frozen-bn": Arm(
        "torchvision's ResNet, BatchNorm frozen where pre-trained",
        change=use_resnet,
        network="resnet",
        freeze=freeze_batch_norms,
    ),
}


def build(
    arm: Arm, weights: Mapping[str, Tensor] | None, num_classes: int, settings: Mapping[str, Any]
) -> nn.Module:
    """Build an arm's detector; everything trains but frozen norms.

    Args:
        arm: Its kind.
        weights: Of a pre-trained classifier; None trains from scratch.
        num_classes: With the background.
        settings: Arguments of torchvision's FasterRCNN.
    """
    norm_layer = partial(nn.GroupNorm, FPN_GROUPS) if arm.pyramid_norm else None
    model = fasterrcnn_bit_tiny_fpn(
        num_classes=num_classes, feature_norm=arm.feature_norm, norm_layer=norm_layer, **settings
    )
    body = model.backbone.body
    if arm.change is not None:
        arm.change(body)
    if weights is not None:
        own = body.state_dict()
        # not in the classifier: norms of the outputs; not in the detector: the head and its norm
        fresh = [name for name in own if name.startswith("feature_norms.")]
        body.load_state_dict({n: own[n] if n in fresh else weights[n] for n in own})
        if arm.freeze is not None:
            arm.freeze(body)
    return model


def count_weights(model: nn.Module) -> tuple[int, int]:
    """Return how many weights a detector's backbone has, and how many of them train.

    Scales and shifts of frozen norms are weights too; statistics are not.
    """
    body = model.get_submodule("backbone.body")
    trained = sum(p.numel() for p in body.parameters() if p.requires_grad)
    frozen = [m for m in body.modules() if isinstance(m, FrozenBatchNorm2d)]
    constant = sum(m.weight.numel() + m.bias.numel() for m in frozen)
    return trained + constant, trained
