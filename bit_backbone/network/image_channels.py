"""Images with other channels than RGB: the stem's layer, and the adaptation of RGB filters."""

from typing import Any

import torch
from torch import Tensor, nn

from bit_backbone import kernels
from bit_backbone.config import BitConfig
from bit_backbone.network.std_conv import StdConv2d, standardize

torch.fx.wrap("standardize")

RGB_CHANNELS = 3


@kernels.returns_new_memory
class GainStdConv2d(StdConv2d):
    """StdConv2d that multiplies each standardized filter by a fixed gain.

    Filters adapted from pretrained RGB ones differ in size, but standardization would make their
    sizes equal; see ``adapt_rgb_filters``. Before an adaptation the gain is a buffer of ones.
    State dicts omit a gain of ones, and loading one without a gain sets ones, so a network that was
    never adapted has the same names here and in transformers.

    Args:
        in_channels: Channels of the input.
        out_channels: Number of filters.
        kernel_size: Height and width.
        **options: As for StdConv2d.
    """

    gain: Tensor

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, **options: Any
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, **options)
        self.register_buffer("gain", torch.ones(out_channels, 1, 1, 1))

    def reset_parameters(self) -> None:
        """Initialises the filters as StdConv2d does, with a gain of 1."""
        super().reset_parameters()
        if "gain" in self._buffers:  # missing while the base class initialises
            nn.init.ones_(self.gain)

    def standardized_weight(self) -> Tensor:
        """Returns the filters as the convolution uses them, [out, in, height, width]."""
        return standardize(self.weight, self.eps) * self.gain

    def _save_to_state_dict(self, destination, prefix, keep_vars):  # type: ignore[no-untyped-def]
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.gain.is_meta or bool((self.gain == 1).all()):
            del destination[f"{prefix}gain"]

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):  # type: ignore[no-untyped-def]
        if f"{prefix}weight" in state_dict and f"{prefix}gain" not in state_dict:
            state_dict = {**state_dict, f"{prefix}gain": torch.ones_like(self.gain)}
        return super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def adapt_rgb_filters(weight: Tensor, num_channels: int, eps: float) -> tuple[Tensor, Tensor]:
    """Turns the filters of an RGB stem into the weight and the gain of a GainStdConv2d.

    The filters are first standardized, as the RGB network uses them, and then adapted. For one
    channel they are summed; for n channels they are cycled (R, G, B, R, ..) and scaled by 3 / n.
    The layer standardizes its weight again, which gives all filters the same size: even a
    colour-opponent filter, whose sum is almost 0, becomes a full one. The gain restores the sizes.

    The result is exact up to rounding if the adapted filters have mean 0, as sums of standardized
    filters do. Then a grey image in one channel gives the output of its RGB copy in the original,
    and so do 6, 9, .. channels of copies. For other n the channels are used unevenly, and the layer
    subtracts the remaining mean; this is only a starting point for fine-tuning. The gain does not
    change in training.

    Args:
        weight: [out, 3, height, width].
        num_channels: Channels of the images.
        eps: Epsilon of the weight standardization, of both networks.

    Returns:
        Weight [out, num_channels, height, width] and gain [out, 1, 1, 1], both float64.
    """
    standardized = standardize(weight.double(), eps)
    if num_channels == 1:
        adapted = standardized.sum(1, keepdim=True)
    else:
        cycle = torch.arange(num_channels, device=weight.device) % RGB_CHANNELS
        adapted = standardized[:, cycle] * (RGB_CHANNELS / num_channels)
    variance = adapted.var(dim=(1, 2, 3), correction=0, keepdim=True)
    return adapted, (variance + eps).sqrt()


def stem_conv(config: BitConfig) -> StdConv2d:
    """Returns the 7x7 convolution of the stem; RGB filters can be adapted to it."""
    kind = StdConv2d if config.num_channels == RGB_CHANNELS else GainStdConv2d
    return kind(
        config.num_channels,
        config.stem_channels,
        7,
        stride=2,
        padding=config.global_padding,
        eps=config.weight_standardization_eps,
    )
