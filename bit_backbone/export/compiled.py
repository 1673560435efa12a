"""A captured detector as torch's ahead-of-time compiler computes it correctly, for any sizes."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.nn import functional as F

# What sizes.symbol counts, in an image of 800 pixels. The compiler decides by it that a detector's
# last map has more than one row and column, and the file checks that of every image.
TYPICAL = 25


class _SpreadConvTranspose2d(nn.ConvTranspose2d):
    """A transposed convolution as a convolution, which ``prepare`` can give a layout."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Enlarges [N, in, H, W]."""
        step, side = self.stride[0], self.kernel_size[0]
        height, width = x.shape[-2], x.shape[-1]
        if side == step:  # no two filters overlap: one number for each place in a square
            filters = self.weight.permute(1, 2, 3, 0).flatten(0, 2)[:, :, None, None]
            bias = None if self.bias is None else self.bias.repeat_interleave(step * step)
            return F.pixel_shuffle(F.conv2d(x, filters, bias), step)
        spread = F.pad(x[:, :, :, None, :, None], (0, step - 1, 0, 0, 0, step - 1))
        spread = spread.reshape(x.shape[0], x.shape[1], height * step, width * step)
        spread = spread[..., : height * step - step + 1, : width * step - step + 1]
        filters = self.weight.flip(2, 3).transpose(0, 1)
        return F.conv2d(spread, filters, self.bias, padding=side - 1 - int(self.padding[0]))


def without_transposed(module: nn.Module) -> nn.Module:
    """Returns a copy of a detector's module in which no convolution is transposed."""
    copied = copy.deepcopy(module)
    for layer in copied.modules():
        if type(layer) is nn.ConvTranspose2d and _can_be_spread(layer):
            layer.__class__ = _SpreadConvTranspose2d
    return copied


def _can_be_spread(layer: nn.ConvTranspose2d) -> bool:
    """Whether ``_SpreadConvTranspose2d`` computes a layer of this geometry."""
    pairs: Any = (layer.stride, layer.kernel_size, layer.padding)
    if layer.groups != 1 or layer.dilation != (1, 1) or layer.output_padding != (0, 0):
        return False
    if any(len(set(pair)) != 1 for pair in pairs):
        return False
    step, side, padding = (pair[0] for pair in pairs)
    return padding == 0 if side == step else padding < side


def prepare(captured: torch.export.ExportedProgram) -> None:
    """Changes a captured program in place, in what torch 2.14 compiles wrongly or not at all."""
    for node in captured.graph.nodes:
        if node.target in (torch.ops.aten.item.default, torch.ops.aten._local_scalar_dense.default):
            _give_hint(node)
        elif node.target is torch.ops.aten.conv2d.default and _is_computed_by_onednn(node):
            _fix_layout(node)
    captured.graph_module.recompile()


def _give_hint(node: Node) -> None:
    """Gives a size that depends on values a typical one, by which the compiler orders strides."""
    size = node.meta["val"]
    if not isinstance(size, torch.SymInt):
        return
    environment: Any = size.node.shape_env
    bounds = environment.var_to_range.get(size.node.expr)
    if bounds is None or bounds.lower != 1:
        return  # an index, whose symbol stays as it is
    older = not hasattr(environment, "add_backed_var_to_val")
    give = environment.add_var_to_val if older else environment.add_backed_var_to_val
    give(size.node.expr, TYPICAL)


def _fix_layout(node: Node) -> None:
    """Makes a convolution say in which layout its result is.

    The library that computes convolutions on a CPU, oneDNN, gives results with channels last. For
    sizes that depend on values, torch compiles what reads a result of ``aten.convolution`` as if
    channels came first, and the numbers are wrong without an error.
    """
    defaults: tuple[Any, ...] = (None, None, None, [1, 1], [0, 0], [1, 1], 1)
    given = (*node.args, *defaults[len(node.args) :])
    x, weight, bias, stride, padding, dilation, groups = given
    node.target = torch.ops.mkldnn._convolution_pointwise.default
    node.args = (x, weight, bias, padding, stride, dilation, groups, "none", [], "")


def _is_computed_by_onednn(node: Node) -> bool:
    """Whether oneDNN computes a convolution here; what does it otherwise puts channels first."""
    if not torch.backends.mkldnn.is_available():
        return False
    dtype = node.meta["val"].dtype
    supported: dict[torch.dtype, Any] = {
        torch.float32: torch.backends.mkldnn.is_available,
        torch.bfloat16: torch.ops.mkldnn._is_mkldnn_bf16_supported,
        torch.float16: torch.ops.mkldnn._is_mkldnn_fp16_supported,
    }
    return dtype in supported and bool(supported[dtype]())
