"""Convolution; on CPUs, 1x1 convolutions of contiguous maps are computed as matrix products.

oneDNN works on channels-last maps. It reorders a contiguous map before a convolution, and the
result after it. For a 1x1 convolution this takes longer than the sums, and as much memory again. As
a matrix [C, H * W] the map can be multiplied without reordering.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bit_backbone.kernels.gate import has_values, is_eager, is_recorded
from bit_backbone.kernels.huge_pages import SMALLEST, in_huge_pages


def conv2d(
    x: Tensor,
    weight: Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> Tensor:
    """Convolves without bias and groups.

    Args:
        x: [N, in, H, W].
        weight: [out, in, height, width].
        stride: Stride of the filters.
        padding: Zeros at the borders.
        dilation: Dilation of the filters.

    Returns:
        [N, out, H', W'].
    """
    if not torch.jit.is_scripting():  # noqa: SIM102 (the only condition that TorchScript skips)
        if _is_faster_as_product(x, weight, stride):
            return _product(x[:, :, :: stride[0], :: stride[1]], weight)
    return F.conv2d(x, weight, None, stride, padding, dilation)


def _is_faster_as_product(x: Tensor, weight: Tensor, stride: tuple[int, int]) -> bool:
    if not is_eager(x, weight):
        return False
    return (
        weight.shape[2] == weight.shape[3] == 1
        and x.device.type == "cpu"
        and x.ndim == 4
        and x.is_contiguous()
        and _outweighs_filters(x, weight, stride)
    )


def _outweighs_filters(x: Tensor, weight: Tensor, stride: tuple[int, int]) -> bool:
    """Whether the maps of an image hold at least as many numbers as the filters.

    The gradient of the filters sums one tensor of their size per image, which takes time and
    memory.
    """
    pixels = x.shape[2] * x.shape[3] // (stride[0] * stride[1])
    return len(x) == 1 or pixels * (weight.shape[0] + weight.shape[1]) >= weight.numel()


def _product(x: Tensor, weight: Tensor) -> Tensor:
    if torch.is_autocast_enabled("cpu") and weight.dtype == torch.float32:
        weight = weight.to(torch.get_autocast_dtype("cpu"))  # once, not for each image
    filters, pixels = weight.flatten(1).expand(len(x), -1, -1), x.flatten(2)
    if _fills_huge_pages(x, weight, pixels.shape[2]):
        product = in_huge_pages(x.new_empty(len(x), len(weight), pixels.shape[2]))
        torch.bmm(filters, pixels, out=product)
    else:
        product = torch.bmm(filters, pixels)
    # If this were a view, autograd would copy it for a sum in place.
    return torch.ops.aten._unsafe_view(product, [*product.shape[:2], *x.shape[2:]])


def _fills_huge_pages(x: Tensor, weight: Tensor, pixels: int) -> bool:
    """Whether a product is large, and can be written into given memory."""
    return (
        len(x) * len(weight) * pixels * x.itemsize >= SMALLEST
        and weight.dtype == x.dtype
        and has_values(x, weight)
        and not is_recorded(x, weight)
    )


def num_output_pixels(conv: nn.Conv2d, x: Tensor) -> int:
    """Returns about how many pixels a convolution's output has per map of [N, in, H, W]."""
    return x.shape[2] * x.shape[3] // (conv.stride[0] * conv.stride[1])
