"""A copy of a model made only of plain operators: filters folded, no kernel of this package."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bit_backbone.export.quantized import quantize_for_export
from bit_backbone.inference.convolution import FoldedConv2d
from bit_backbone.inference.optimize import compute_in
from bit_backbone.network import BitNetwork, GroupNormAct
from bit_backbone.network.padding import pad_same
from bit_backbone.network.std_conv import StdConv2d, standardize

Model = TypeVar("Model", bound=nn.Module)


class PlainConv2d(nn.Conv2d):
    """A convolution whose weight holds standardized filters."""

    pads_same: bool

    def forward(self, x: Tensor) -> Tensor:
        """Convolves [N, in, H, W]."""
        if self.pads_same:
            x = pad_same(x, self.kernel_size[0], self.stride[0], self.dilation[0], 0.0)
        return F.conv2d(x, self.weight, None, self.stride, self.padding, self.dilation)


class PlainGroupNormAct(GroupNormAct):
    """GroupNorm and activation as two operators.

    Both ONNX Runtime and OpenVINO run what exporters make of ``group_norm``, an
    InstanceNormalization over the groups and an affine map, at least as fast as means and
    variances of their own operators, as one scale and shift, and as a batch norm.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalises and activates [N, C, H, W]."""
        return self.act(torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps))


def portable(model: Model, dtype: torch.dtype | None = None) -> Model:
    """Returns a copy in eval mode, on the CPU, in float32, that any exporter can read.

    Args:
        model: A model with BiT in it; not changed.
        dtype: What the BiT networks compute in, between float32 inputs and outputs; torch.int8:
            their convolutions, the rest in float32.

    Raises:
        ValueError: There is no BiT in it, or an optimized one, whose layers are made for PyTorch.
    """
    modules = list(model.modules())
    if any(isinstance(module, FoldedConv2d) for module in modules):
        raise ValueError(
            "a model that optimize_for_inference returned cannot be exported, for its layers are "
            "made for PyTorch; export the model that it was made from"
        )
    if not any(isinstance(module, StdConv2d) for module in modules):
        raise ValueError(
            "only a BiT model, or a model that contains one, can be exported, got a "
            f"{type(model).__name__} without a convolution of BiT's"
        )
    with torch.inference_mode(False):
        copied = copy.deepcopy(model).cpu().float().eval().requires_grad_(False)
    if dtype == torch.int8:
        quantize_for_export(copied)
    for module in copied.modules():
        _make_plain(module)
    if dtype not in (None, torch.float32, torch.int8):
        for module in list(copied.modules()):
            if isinstance(module, BitNetwork):
                compute_in(module, dtype)
    return copied


def _make_plain(module: nn.Module) -> None:
    """Changes a layer's class, so that references to it stay."""
    if type(module) is StdConv2d:
        weight = standardize(module.weight.detach(), module.eps)
        module.weight = nn.Parameter(weight, requires_grad=False)
        plain: Any = module
        plain.__class__ = PlainConv2d
    elif type(module) is GroupNormAct:
        module.__class__ = PlainGroupNormAct
