"""1x1 convolutions of contiguous maps on CPUs, as the products of matrices that they are.

oneDNN works on maps whose channels lie together. It lays a contiguous map out anew before a
convolution and the result after it, which for a 1x1 convolution takes longer than the sums do, and
as much memory again. As a matrix [C, H * W] the map can be multiplied as it lies.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Geometry(NamedTuple):
    """How a convolution without bias and groups goes over a map.

    Attributes:
        stride: Of the filters.
        padding: Zeros at the borders.
        dilation: Of the filters.
        is_product: Whether it is calculated as a product of matrices.
    """

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    is_product: bool


def geometry_of(conv: nn.Conv2d, x: Tensor) -> Geometry:
    """Returns how to convolve a map.

    Args:
        conv: The convolution.
        x: [N, in, H, W].
    """
    assert not isinstance(conv.padding, str)
    return Geometry(conv.stride, conv.padding, conv.dilation, _is_product(conv, x))


def _is_product(conv: nn.Conv2d, x: Tensor) -> bool:
    """Whether a product brings something, and TorchScript does not record it."""
    return (
        conv.kernel_size == (1, 1)
        and not torch.jit.is_tracing()
        and isinstance(x, Tensor)  # and not a proxy of torch.fx
        and x.device.type == "cpu"
        and x.ndim == 4
        and x.is_contiguous()
        and _weighs_more(x, conv)
    )


def _weighs_more(x: Tensor, conv: nn.Conv2d) -> bool:
    """Whether the maps of an image hold as many numbers as the weights.

    The gradient of the weights is the sum of one of their size for each image, which takes time and
    memory.
    """
    channels = conv.in_channels + conv.out_channels
    return len(x) == 1 or pixels_behind(conv, x) * channels >= conv.weight.numel()


def pixels_behind(conv: nn.Conv2d, x: Tensor) -> int:
    """Returns how many pixels a convolution makes of each of the maps [N, in, H, W], or nearly."""
    return x.shape[2] * x.shape[3] // (conv.stride[0] * conv.stride[1])


def convolve(x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """Convolves [N, in, H, W] with [out, in, height, width]; returns a tensor of its own."""
    if not geometry.is_product:
        return F.conv2d(x, weight, None, *geometry[:3])
    if torch.is_autocast_enabled("cpu") and weight.dtype == torch.float32:
        weight = weight.to(torch.get_autocast_dtype("cpu"))  # once, and not for each image
    taken = _taken(x, geometry)
    matrices = weight.flatten(1).expand(len(x), -1, -1)
    product = torch.bmm(matrices, taken.flatten(2))
    # To autograd a view is not a tensor of its own: a sum in its memory would copy it.
    return torch.ops.aten._unsafe_view(product, [*product.shape[:2], *taken.shape[2:]])


def convolve_backward(
    gradient: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, needs: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Returns the gradients that autograd finds for ``convolve``, to the last bit.

    Args:
        gradient: Of the result.
        x: What was convolved, [N, in, H, W].
        weight: With what, [out, in, height, width].
        geometry: How.
        needs: Whether the gradient of ``x`` is needed, and that of ``weight``.
    """
    if not geometry.is_product:
        stride, padding, dilation, _ = geometry
        of_x, of_weight, _ = torch.ops.aten.convolution_backward(
            *(gradient, x, weight, None, stride, padding, dilation, False, [0, 0], 1),
            [*needs, False],
        )
        return of_x, of_weight
    taken, gradients = _taken(x, geometry), gradient.flatten(2)
    of_x = of_weight = None
    if needs[0]:
        matrices = weight.flatten(1).t().expand(len(x), -1, -1)
        of_x = _spread(torch.bmm(matrices, gradients).view_as(taken), x, geometry)
    if needs[1]:
        of_weight = torch.bmm(gradients, taken.flatten(2).mT).sum(0).view_as(weight)
    return of_x, of_weight


def _taken(x: Tensor, geometry: Geometry) -> Tensor:
    """Returns the pixels that a 1x1 convolution needs of a map."""
    return x[:, :, :: geometry.stride[0], :: geometry.stride[1]]


def _spread(taken: Tensor, x: Tensor, geometry: Geometry) -> Tensor:
    """Returns zeros like ``x``, but for its taken pixels, which are ``taken``."""
    if geometry.stride == (1, 1):
        return taken
    spread = torch.zeros_like(x)
    _taken(spread, geometry).copy_(taken)
    return spread
