"""The convolution of a model optimized for inference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bit_backbone import kernels
from bit_backbone.kernels.conv import num_output_pixels
from bit_backbone.kernels.gate import has_values, is_eager, is_recorded
from bit_backbone.network.padding import pad_same
from bit_backbone.network.std_conv import StdConv2d, standardize

__all__ = ["NO_TRAINING", "FoldedConv2d"]

torch.fx.wrap("pad_same")

NO_TRAINING = (
    "a model optimized for inference cannot be trained: train the model that it was made from, "
    "then call optimize_for_inference again"
)

# Filters are laid out in advance for batches of maps of at most this many pixels. Laying out takes
# as long as convolving some hundred pixels; the result takes as much memory as the weights.
MOST_PIXELS = 512


@kernels.returns_new_memory
class FoldedConv2d(nn.Conv2d):
    """A convolution whose weight holds standardized filters; it replaces a StdConv2d.

    On CPUs, in channels-last, it runs oneDNN's convolution with two features that ``F.conv2d``
    lacks: it can add to an existing tensor in place, and use filters that are laid out in advance.
    The best layout depends on the shape of the input, and a wrong one is slower than none. So
    filters are laid out when a shape comes twice in a row, for one shape at a time. For changing
    shapes, and for more than MOST_PIXELS pixels, oneDNN lays them out at each call.

    Loading a state dict standardizes its weights, so weights of the original and of its optimized
    copy have the same result (standardizing twice changes nothing).

    Attributes:
        pads_same: Whether the input is padded first, as TensorFlow's SAME does.
        eps: Epsilon of the standardization of loaded weights.
        channels_last: Whether weight and maps are laid out channels-last.
        lays_out: Whether filters are laid out in advance, which makes a copy of them.
    """

    __jit_ignored_attributes__ = ("_seen",)

    if TYPE_CHECKING:  # TorchScript evaluates the annotations that it finds in a class
        pads_same: bool
        eps: float
        channels_last: bool
        lays_out: bool
        # Shape and type of the latest input with its weight; the filters laid out for it.
        _seen: tuple[tuple[Any, ...] | None, Tensor | None]

    @classmethod
    def fold(cls, conv: StdConv2d, channels_last: bool) -> None:
        """Turns a StdConv2d into a FoldedConv2d: its class changes, so hooks and references stay.

        Args:
            conv: The convolution to change.
            channels_last: Whether to lay out its weight and the maps channels-last.
        """
        weight = standardize(conv.weight.detach(), conv.eps)
        conv.weight = nn.Parameter(weight, requires_grad=False)
        folded: Any = conv
        folded.__class__ = cls
        folded.channels_last = channels_last
        folded.lays_out = True
        folded._seen = (None, None)

    def forward(self, x: Tensor, total: Tensor | None = None) -> Tensor:
        """Convolves [N, in, H, W], and adds the result to ``total`` in place, if it is given.

        Raises:
            ValueError: Autograd would record the operation.
        """
        if self.pads_same:
            x = pad_same(x, self.kernel_size[0], self.stride[0], self.dilation[0], 0.0)
        if not torch.jit.is_scripting():  # noqa: SIM102 (the only condition that TorchScript skips)
            if is_eager(x):
                return self._run(x, total)
        # Compilers make the sum in place themselves, where possible.
        y = F.conv2d(x, self.weight, None, self.stride, self.padding, self.dilation)
        return y if total is None else total + y

    @torch.jit.unused
    def _run(self, x: Tensor, total: Tensor | None) -> Tensor:
        if is_recorded(x, self.weight):
            raise ValueError(NO_TRAINING)
        if self.channels_last and _can_run_onednn(x, self.weight):
            x = x.contiguous(memory_format=torch.channels_last)
            if total is None or total.is_contiguous(memory_format=torch.channels_last):
                return self._run_onednn(x, total)
        y = F.conv2d(x, self.weight, None, self.stride, self.padding, self.dilation)
        return y if total is None else total.add_(y)

    def _run_onednn(self, x: Tensor, total: Tensor | None) -> Tensor:
        # The operators that inductor fuses convolutions into.
        weight = self._packed_for(x)
        geometry = (None, self.padding, self.stride, self.dilation, 1)
        if total is not None:
            return torch.ops.mkldnn._convolution_pointwise_.binary(
                total, x, weight, *geometry, "add", 1.0, None, [], None
            )
        return torch.ops.mkldnn._convolution_pointwise(x, weight, *geometry, "none", [], "")

    def _packed_for(self, x: Tensor) -> Tensor:
        """Returns filters laid out for the shape of ``x`` if it is repeated, else plain filters."""
        weight = self.weight
        if not self.lays_out or weight.is_inference():  # whose changes PyTorch does not count
            return weight
        if len(x) * num_output_pixels(self, x) > MOST_PIXELS:
            self._seen = (None, None)  # frees filters that were laid out for another shape
            return weight
        key = (x.shape, x.dtype, weight.data_ptr(), weight._version)
        seen, packed = self._seen  # read together, because other threads may run this layer too
        if key != seen:
            self._seen = key, None
            return weight
        if packed is None:
            packed = torch.ops.mkldnn._reorder_convolution_weight(
                weight, self.padding, self.stride, self.dilation, 1, list(x.shape)
            )
            self._seen = key, packed
        return packed

    @torch.jit.unused
    def fits(self, dtype: torch.dtype) -> bool:
        """Whether ``norm_conv`` can take the filters for maps of a type."""
        fits = self.channels_last and self.lays_out and self.weight.dtype == dtype
        return fits and self.bias is None and self.groups == 1

    def train(self, mode: bool = True) -> FoldedConv2d:
        """Accepts only eval mode.

        Raises:
            ValueError: ``mode`` is True.
        """
        if mode:
            raise ValueError(NO_TRAINING)
        return super().train(False)

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]
        self._seen = (None, None)
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):  # type: ignore[no-untyped-def]
        self._seen = (None, None)
        name = f"{prefix}weight"
        if name in state_dict and state_dict[name].shape == self.weight.shape:
            weight = standardize(state_dict[name].detach(), self.eps)
            if self.channels_last:
                weight = weight.contiguous(memory_format=torch.channels_last)
            state_dict = {**state_dict, name: weight}
        return super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_seen": (None, None)}


def _can_run_onednn(x: Tensor, weight: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype
        and (x.dtype == torch.float32 or (x.dtype == torch.bfloat16 and _has_bfloat16()))
        and x.ndim == 4
        and x.numel() > 0
        and has_values(x)
        and bool(torch.backends.mkldnn.enabled)
        and torch.backends.mkldnn.is_available()
        and not torch.is_autocast_enabled("cpu")
    )


def _has_bfloat16() -> bool:
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
