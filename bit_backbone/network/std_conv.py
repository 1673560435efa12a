"""Convolution with weight standardization (arXiv 1903.10520)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bit_backbone import kernels
from bit_backbone.config import BitConfig
from bit_backbone.network.padding import pad_same

torch.fx.wrap("pad_same")


@torch.fx.wrap
@kernels.native_where_possible
def standardize(weight: Tensor, eps: float) -> Tensor:
    """Returns each filter with mean 0 and variance 1 (weight standardization).

    ``(w - mean) / sqrt(var + eps)`` per output filter with the biased variance. It is computed in
    at least float32: in half precision, ``eps`` and the variance of a small filter are 0.

    Args:
        weight: [out, in, height, width].
        eps: Added to the variance; 1e-10 in google-research/big_transfer.

    Returns:
        [out, in, height, width] in the dtype of ``weight``.
    """
    exact = weight if weight.dtype == torch.float64 else weight.float()
    # Layer norm of each filter: one operator per direction, and two saved numbers per filter.
    channels_last = exact.permute(0, 2, 3, 1)
    if channels_last.is_contiguous() and not exact.is_contiguous():
        standardized = torch.layer_norm(channels_last, channels_last.shape[1:], eps=eps)
        return standardized.permute(0, 3, 1, 2).to(weight.dtype)
    return torch.layer_norm(exact, exact.shape[1:], eps=eps).to(weight.dtype)


@kernels.returns_new_memory
class StdConv2d(nn.Conv2d):
    """Square convolution without bias whose filters are standardized at every forward.

    Args:
        in_channels: Channels of the input.
        out_channels: Number of filters.
        kernel_size: Height and width.
        stride: Stride.
        dilation: Dilation.
        padding: None: symmetric and fixed, so that stride 1 keeps the size. "same": TensorFlow's,
            computed from the input size. "valid": none.
        eps: Epsilon of the standardization.
    """

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        padding: str | None = None,
        eps: float = 1e-10,
    ) -> None:
        # SAME is symmetric at stride 1, and zero for 1x1 kernels; otherwise it is dynamic.
        self_padded = padding == "same" and stride > 1 and kernel_size > 1
        fixed = 0 if padding == "valid" or self_padded else dilation * (kernel_size - 1) // 2
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=fixed,
            dilation=dilation,
            bias=False,
        )
        self.pads_same = self_padded
        self.eps = eps

    def reset_parameters(self) -> None:
        """Kaiming normal initialisation by fan-out, as timm and transformers do."""
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Convolves [N, in, H, W] with the standardized filters."""
        if self.pads_same:
            x = pad_same(x, self.kernel_size[0], self.stride[0], self.dilation[0], 0.0)
        weight = self.standardized_weight()
        return kernels.conv2d(x, weight, self.stride, self.padding, self.dilation)

    def standardized_weight(self) -> Tensor:
        """Returns the filters as the convolution uses them, [out, in, height, width]."""
        return standardize(self.weight, self.eps)


def std_conv(config: BitConfig, cin: int, cout: int, kernel_size: int, **options: Any) -> StdConv2d:
    """Returns a convolution with the padding and epsilon of a configuration.

    Args:
        config: The network's.
        cin: Channels of the input.
        cout: Number of filters.
        kernel_size: Height and width.
        **options: ``stride`` and ``dilation``.
    """
    options |= {"padding": config.global_padding, "eps": config.weight_standardization_eps}
    return StdConv2d(cin, cout, kernel_size, **options)
