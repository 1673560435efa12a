"""A copy of a model made only of plain operators: filters folded, no kernel of this package."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bit_backbone import kernels
from bit_backbone.export.quantized import quantize_for_export
from bit_backbone.export.sizes import Size
from bit_backbone.inference.convolution import FoldedConv2d
from bit_backbone.inference.optimize import compute_in
from bit_backbone.network import BitNetwork, GroupNormAct, Stem
from bit_backbone.network.padding import pad_same
from bit_backbone.network.std_conv import StdConv2d, standardize
from bit_backbone.network.stem_pool import bound_at_ring

Model = TypeVar("Model", bound=nn.Module)


class PlainConv2d(nn.Conv2d):
    """A convolution whose weight holds standardized filters."""

    pads_same: bool

    def forward(self, x: Tensor) -> Tensor:
        """Convolves [N, in, H, W]."""
        if self.pads_same:
            x = pad_same(x, self.kernel_size[0], self.stride[0], self.dilation[0], 0.0)
        return self._conv_forward(x, self.weight, None)

    def output_size(self, side: Size) -> Size:
        """Returns the height of the result for that of the input, or the width for the width."""
        if self.pads_same:
            return (side + self.stride[0] - 1) // self.stride[0]
        extent = (self.kernel_size[0] - 1) * self.dilation[0] + 1
        return (side + 2 * int(self.padding[0]) - extent) // self.stride[0] + 1


class PlainStem(Stem):
    """The stem, whose pooling gets the size of its input from that of the images.

    ONNX Runtime would otherwise copy the input, the network's largest map, to another layout only
    to read its size.
    """

    def forward(self, images: Tensor) -> Tensor:
        """Returns the pooled stem, stride 4."""
        x = self.norm(self.conv(images))
        conv: Any = self.conv
        if self.pool.padding is not None or not isinstance(conv, PlainConv2d):
            return self.pool(x)
        height, width = (conv.output_size(images.shape[axis]) for axis in (-2, -1))
        return bound_at_ring(kernels.max_pool(x), height, width)


class PlainGroupNormAct(GroupNormAct):
    """GroupNorm and activation as two operators.

    OpenVINO runs what exporters make of ``group_norm``, an InstanceNormalization over the groups
    and an affine map, at least as fast as means and variances of their own operators, as one scale
    and shift, and as a batch norm.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalises and activates [N, C, H, W]."""
        return self.act(torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps))


class _NormalisedGroups(torch.autograd.Function):
    """``group_norm`` without an affine map, of which the exporter would write one of 1 and 0."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, num_groups: int, eps: float) -> Tensor:
        return torch.group_norm(x, num_groups, None, None, eps)

    @staticmethod
    def symbolic(g: Any, x: Any, num_groups: int, eps: float) -> Any:
        shape = g.op("Constant", value_t=torch.tensor([0, num_groups, -1]))
        factors, shifts = (
            g.op("Constant", value_t=torch.full((num_groups,), value)) for value in (1.0, 0.0)
        )
        groups = g.op("Reshape", x, shape)
        normal = g.op("InstanceNormalization", groups, factors, shifts, epsilon_f=eps)
        return g.op("Reshape", normal, g.op("Shape", x)).setType(x.type())


class ConvolvedGroupNormAct(GroupNormAct):
    """GroupNorm whose affine map is a convolution of each channel with one number.

    ONNX Runtime computes such a convolution and the activation after it at once, and in the layout
    that the next convolution reads; of an affine map it makes two operators, in another layout.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalises and activates [N, C, H, W]."""
        normal = _NormalisedGroups.apply(x, self.num_groups, self.eps)
        filters = self.weight[:, None, None, None]
        affine = F.conv2d(normal, filters, self.bias, groups=self.num_channels)
        return self.act(affine)


def with_convolved_norms(model: Model) -> Model:
    """Returns a copy of a portable model, with norms that ONNX Runtime computes fastest."""
    copied = copy.deepcopy(model)
    modules: list[nn.Module] = list(copied.modules())
    for module in modules:
        if type(module) is PlainGroupNormAct:
            module.__class__ = ConvolvedGroupNormAct  # type: ignore[assignment]
    return copied


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
    elif type(module) is Stem:
        module.__class__ = PlainStem
