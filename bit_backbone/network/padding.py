"""Padding and cropping that stay dynamic under compilers, exporters and tracers.

Functions that look at a tensor's size are leaves for torch.fx, so that symbolic tracing
(torchvision's ``create_feature_extractor``) keeps them dynamic. ``torch.fx.wrap`` reaches only the
calls of the module that it is used in, so each module wraps what it calls.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def pad_same(x: Tensor, kernel_size: int, stride: int, dilation: int, value: float) -> Tensor:
    """Pads height and width as TensorFlow's SAME does, the odd pixel at the end.

    The arithmetic avoids ``max`` and ``ceil``: with symbolic sizes, compilers and exporters take
    minutes over those. The kernel's extent must be at least the stride, as it is for every kernel
    of a ResNet larger than 1x1.

    Args:
        x: [N, C, H, W].
        kernel_size: Height and width of the kernel that follows.
        stride: Stride of the kernel.
        dilation: Dilation of the kernel.
        value: The value of the padding.
    """
    extent = (kernel_size - 1) * dilation + 1
    height, width = x.shape[-2], x.shape[-1]
    vertical = ((height + stride - 1) // stride - 1) * stride + extent - height
    horizontal = ((width + stride - 1) // stride - 1) * stride + extent - width
    left, top = horizontal // 2, vertical // 2
    return F.pad(x, [left, horizontal - left, top, vertical - top], value=value)


def centre_crop_like(x: Tensor, reference: Tensor) -> Tensor:
    """Crops height and width of ``x`` to those of ``reference``, keeping the centre."""
    height, width = reference.shape[-2], reference.shape[-1]
    top, left = (x.shape[-2] - height) // 2, (x.shape[-1] - width) // 2
    return x[..., top : top + height, left : left + width]
