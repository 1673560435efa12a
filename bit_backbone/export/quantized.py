"""BiT in 8 bits for ONNX Runtime and OpenVINO: quantization written into the graph.

The scales are those of ``bit_backbone.inference.quantization``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bit_backbone.inference.int8 import LEVELS, SMALLEST_STEP, scaled_filters
from bit_backbone.inference.quantization import (
    bound_of,
    check_int8,
    convolutions_of,
    norms_of,
    quantizable_units,
)
from bit_backbone.network import BitNetwork
from bit_backbone.network.padding import pad_same


class QuantizedConv2d(nn.Conv2d):
    """A convolution of levels by 8-bit filters, in floating point: what a StdConv2d becomes.

    Attributes:
        pads_same: Whether the input is padded as TensorFlow's SAME first.
        weight_steps: What one step of each filter's weights stands for, [out].
        zeros: Of these steps, int32 [out].
        factors: What makes levels of the input, [in, 1, 1]; None where the norm before does.
    """

    pads_same: bool
    weight_steps: Tensor
    zeros: Tensor
    factors: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        """Convolves [N, in, H, W]."""
        if self.factors is not None:
            x = x * self.factors
        x = torch.fake_quantize_per_tensor_affine(x, 1.0, 0, 0, int(LEVELS))
        if self.pads_same:
            x = pad_same(x, self.kernel_size[0], self.stride[0], self.dilation[0], 0.0)
        weight = torch.fake_quantize_per_channel_affine(
            self.weight, self.weight_steps, self.zeros, 0, -128, 127
        )
        return F.conv2d(x, weight, None, self.stride, self.padding, self.dilation)


def quantize_for_export(model: nn.Module) -> None:
    """Turns the units of a copy of a model into ones of 8 bits, before anything else is changed.

    Raises:
        ValueError: The model cannot be computed in 8 bits.
    """
    check_int8(model)
    tapped = _tapped(model)
    for unit in quantizable_units(model):
        steps = [(bound_of(n) / LEVELS).clamp(min=SMALLEST_STEP) for n in norms_of(unit)]
        for index, conv in enumerate(convolutions_of(unit)):
            norm = norms_of(unit)[index % 3]  # the projection reads what the first one reads
            _quantize(conv, steps[index % 3], norm in tapped)
        for norm, step in zip(norms_of(unit), steps, strict=True):
            if norm not in tapped:
                # ReLU commutes with positive factors, so the norm gives levels at no cost.
                # New parameters, because another norm may have the same ones.
                norm.weight = nn.Parameter(norm.weight / step, requires_grad=False)
                norm.bias = nn.Parameter(norm.bias / step, requires_grad=False)


def _tapped(model: nn.Module) -> set[nn.Module]:
    """Returns the norms whose results are features too."""
    networks = [module for module in model.modules() if isinstance(module, BitNetwork)]
    stages: list[Any] = [
        stage
        for network in networks
        if network.config.feature_norm == "preact"
        for stage in network.children()
        if hasattr(stage, "is_stage")
    ]
    return {stage[0].norm1 for stage in stages}


def _quantize(conv: Any, steps: Tensor, has_factors: bool) -> None:
    weight, weight_steps = scaled_filters(conv, steps)
    conv.weight = nn.Parameter(weight, requires_grad=False)
    conv.__class__ = QuantizedConv2d
    conv.register_buffer("weight_steps", weight_steps)
    conv.register_buffer("zeros", torch.zeros(len(weight_steps), dtype=torch.int32))
    conv.register_buffer("factors", (1 / steps)[:, None, None] if has_factors else None)


def store_in_8_bits(model: Any) -> None:
    """Replaces filters that an ONNX graph quantizes by what that gives, a quarter as large."""
    from onnx import numpy_helper

    graph = model.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    constants = {
        node.output[0]: numpy_helper.to_array(node.attribute[0].t)
        for node in graph.node
        if node.op_type == "Constant" and node.attribute[0].HasField("t")
    }

    def value(name: str) -> np.ndarray:
        return numpy_helper.to_array(stored[name]) if name in stored else constants[name]

    for node in [n for n in graph.node if n.op_type == "QuantizeLinear" and n.input[0] in stored]:
        weight, steps = value(node.input[0]), value(node.input[1])
        levels = np.rint(weight / steps.reshape(-1, *[1] * (weight.ndim - 1)))
        tensor = numpy_helper.from_array(levels.clip(-128, 127).astype(np.int8), node.output[0])
        graph.initializer.remove(stored[node.input[0]])
        graph.initializer.append(tensor)
        graph.node.remove(node)
