"""BiT in 8-bit integers, with scales that are computed from the parameters.

Every convolution of a pre-activation unit reads the result of GroupNorm and ReLU. The distribution
of its values is known without an image: in each channel it is about that of ReLU(beta + gamma * z)
with normal z. So an 8-bit level of a channel is (beta + DEVIATIONS * |gamma|) / 255. The filters
are multiplied by these levels, and each filter is rounded to 8 bits with its own scale. Sums are
exact integers. Everything between convolutions, such as residual sums, stays in floating point.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bit_backbone import kernels
from bit_backbone.inference.convolution import NO_TRAINING, FoldedConv2d
from bit_backbone.inference.fast_dtype import has_int8
from bit_backbone.kernels import native
from bit_backbone.kernels.activations import activation_name
from bit_backbone.kernels.gate import has_hooks, has_values, is_eager, is_recorded
from bit_backbone.network import GroupNormAct, PreActUnit
from bit_backbone.network.padding import pad_same
from bit_backbone.network.std_conv import StdConv2d, standardize

LEVELS = 255.0  # of activations, which are not negative
LARGEST = 127.0  # of weights
SMALLEST_STEP = 1e-12


def scaled_filters(conv: StdConv2d | FoldedConv2d, steps: Tensor) -> tuple[Tensor, Tensor]:
    """Returns filters for levels of the input, and the value of one step of each filter.

    Args:
        conv: The convolution.
        steps: The value of one level of each input channel, float32 [in].
    """
    scaled = standardize(conv.weight.detach().float(), conv.eps) * steps[:, None, None]
    return scaled, scaled.abs().amax((1, 2, 3)).clamp(min=SMALLEST_STEP**2) / LARGEST


@kernels.returns_new_memory
class Int8Conv2d(nn.Conv2d):
    """A convolution of uint8 levels by int8 filters; it replaces a StdConv2d.

    Attributes:
        pads_same: Whether the input is padded first, as TensorFlow's SAME does.
        dtype: Type of the results; it follows the network's.
        weight_steps: The value of one step of each filter's weights, float32 [out].
        input_steps: The value of one level of each channel, float32 [in].
    """

    pads_same: bool
    dtype: torch.dtype
    weight_steps: Tensor
    input_steps: Tensor
    _packed: tuple[Any, Any, Any]

    @classmethod
    def quantize(cls, conv: StdConv2d | FoldedConv2d, steps: Tensor) -> None:
        """Turns a convolution into an Int8Conv2d: its class changes, so hooks and references stay.

        Args:
            conv: The convolution to change.
            steps: The value of one level of each input channel, float32 [in].
        """
        dtype = conv.weight.dtype
        scaled, weight_steps = scaled_filters(conv, steps)
        weight = (scaled / weight_steps[:, None, None, None]).round().to(torch.int8)
        conv.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
        cls.empty(conv, dtype, weight_steps, steps)

    @classmethod
    def empty(
        cls, conv: nn.Conv2d, dtype: torch.dtype, weight_steps: Tensor, steps: Tensor
    ) -> None:
        """Turns a convolution whose weight is already in 8 bits into an Int8Conv2d."""
        quantized: Any = conv
        quantized.__class__ = cls
        quantized.register_buffer("weight_steps", weight_steps)
        quantized.register_buffer("input_steps", steps)
        quantized.dtype, quantized._packed = dtype, (None, None, None)

    def forward(self, levels: Tensor) -> Tensor:
        """Maps uint8 [N, in, H, W] to floating point [N, out, H, W]."""
        if self.pads_same:
            levels = pad_same(levels, self.kernel_size[0], self.stride[0], self.dilation[0], 0)
        if not self._runs_onednn(levels):
            y = F.conv2d(
                levels.float(), self.weight.float(), None, self.stride, self.padding, self.dilation
            )
            return (y * self.weight_steps[:, None, None]).to(self.dtype)
        return self._run_pointwise(levels) if self.kernel_size == (1, 1) else self._run(levels)

    def _runs_onednn(self, levels: Tensor) -> bool:
        return (
            is_eager(levels)
            and has_values(levels)
            and levels.device.type == "cpu"
            and levels.numel() > 0
            and self.dtype in native.DTYPES
            and _has_operator()
        )

    def _run_pointwise(self, levels: Tensor) -> Tensor:
        """Multiplies matrices: their weights have one layout for any number of pixels."""
        rows, columns = self.stride
        pixels = levels[:, :, ::rows, ::columns].permute(0, 2, 3, 1)
        y = torch.ops.onednn.qlinear_pointwise(
            pixels.reshape(-1, pixels.shape[-1]),
            *(1.0, 0, *self._filters(), None),
            *(1.0, 0, self.dtype, "none", [], ""),
        )
        return y.view(*pixels.shape[:3], -1).permute(0, 3, 1, 2)

    def _run(self, levels: Tensor) -> Tensor:
        geometry = (None, self.stride, self.padding, self.dilation, 1)
        y: Tensor = torch.ops.onednn.qconv_pointwise(
            levels.contiguous(memory_format=torch.channels_last),
            *(1.0, 0, *self._filters(), *geometry),
            *(1.0, 0, self.dtype, "none", [], ""),
        )
        return y

    def _filters(self) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the filters in oneDNN's layout, with their steps and zero points.

        They are laid out again only when the filters change.
        """
        version = 0 if self.weight.is_inference() else self.weight._version
        key = self.weight.data_ptr(), version
        seen, packed, zeros = self._packed  # together: other threads may run this layer too
        if packed is None or key != seen:
            packed, zeros = self._pack(), torch.zeros(len(self.weight), dtype=torch.int64)
            self._packed = key, packed, zeros
        return packed, self.weight_steps, zeros

    def _pack(self) -> Tensor:
        if self.kernel_size == (1, 1):
            packed: Tensor = torch.ops.onednn.qlinear_prepack(self.weight[:, :, 0, 0], None)
            return packed
        geometry = (self.stride, self.padding, self.dilation, 1)
        packed = torch.ops.onednn.qconv_prepack(
            self.weight, self.weight_steps, 1.0, 0, *geometry, None
        )
        return packed

    def fits(self, dtype: torch.dtype) -> bool:
        """Whether ``norm_conv`` can take the filters for maps of a type."""
        return self.dtype == dtype and has_int8() and self.bias is None and self.groups == 1

    def _apply(self, fn: Any, recurse: bool = True) -> Int8Conv2d:
        """Moves everything, but casts only the results: steps stay in float32."""
        self._packed = (None, None, None)
        steps = self.weight_steps, self.input_steps
        super()._apply(fn, recurse)
        self.weight_steps, self.input_steps = (each.to(self.weight.device) for each in steps)
        self.dtype = fn(torch.empty(0, dtype=self.dtype)).dtype
        return self

    def train(self, mode: bool = True) -> Int8Conv2d:
        """Accepts only eval mode.

        Raises:
            ValueError: ``mode`` is True.
        """
        if mode:
            raise ValueError(NO_TRAINING)
        return super().train(False)

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        given = state_dict.get(f"{prefix}weight")
        if given is not None and given.dtype != torch.int8:
            raise ValueError(
                f"{prefix}weight is in 8 bits here, and {given.dtype} in the state dict: load it "
                "into the model that this one was made from, then optimize that for int8 again"
            )
        self._packed = (None, None, None)
        steps = {f"{prefix}{name}" for name in ("weight_steps", "input_steps")}
        loaded = {k: v.float() if k in steps else v for k, v in state_dict.items()}
        super()._load_from_state_dict(loaded, prefix, *args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_packed": (None, None, None)}


class Int8PreActUnit(PreActUnit):
    """PreActUnit whose convolutions are Int8Conv2d.

    Attributes:
        adds_in_place: Whether this unit may overwrite the shortcut.
    """

    adds_in_place: bool

    def _apply(self, fn: Any, recurse: bool = True) -> Int8PreActUnit:
        """Moves everything, but does not cast norms, which accept maps of any type."""
        norms = self.norm1, self.norm2, self.norm3
        values = [(norm.weight.detach(), norm.bias.detach()) for norm in norms]
        super()._apply(fn, recurse)
        for norm, (weight, bias) in zip(norms, values, strict=True):
            norm.weight.data = weight.to(norm.weight.device)
            norm.bias.data = bias.to(norm.bias.device)
        return self

    def forward(self, x: Tensor, activated: Tensor | None = None) -> Tensor:
        """Maps raw residual sums to raw residual sums; recomputes ``activated`` in levels."""
        if is_recorded(x):
            raise ValueError(NO_TRAINING)
        levels = quantized(self.norm1, x, self.conv1)
        branch = quantized(self.norm2, self.conv1(levels), self.conv2)
        branch = self.conv3(quantized(self.norm3, self.conv2(branch), self.conv3))
        shortcut = self.cropped(x if self.downsample is None else self.downsample(levels), branch)
        if self.adds_in_place and not self.crops and not has_hooks(self.conv3):
            return shortcut.add_(branch)
        return shortcut + branch


def quantized(norm: GroupNormAct, x: Tensor, conv: Any) -> Tensor:
    """Returns a norm's result as the levels, uint8 [N, C, H, W], that a convolution reads."""
    steps = conv.input_steps
    if native.can_run(x) and _is_dense(x) and _is_plain(norm):
        arguments = x, norm.num_groups, norm.weight, norm.bias, steps, norm.eps
        return native.group_norm_relu_uint8(*arguments)
    levels = (norm(x).float() / steps[:, None, None]).round().clamp(0, LEVELS)
    return levels.to(torch.uint8)


def _is_dense(x: Tensor) -> bool:
    return x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last)


def _is_plain(norm: GroupNormAct) -> bool:
    return not has_hooks(norm) and activation_name(norm.act) == "relu"


def _has_operator() -> bool:
    # Without a dot product of 8-bit integers, oneDNN adds products in 16 bits, which saturate.
    return has_int8() and hasattr(torch.ops.onednn, "qconv_pointwise")
