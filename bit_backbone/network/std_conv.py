"""Convolution with weight standardization, done once for weights that do not change."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bit_backbone.config import BitConfig
from bit_backbone.kernels.pointwise import convolve, geometry_of
from bit_backbone.kernels.recompute import convolve_made, recipe_of
from bit_backbone.network.padding import pad_same

torch.fx.wrap("pad_same")


@torch.fx.wrap
def standardize(weight: Tensor, eps: float) -> Tensor:
    """Returns each filter with mean 0 and variance 1 (weight standardization).

    ``(w - mean) / sqrt(var + eps)`` per output filter with the biased variance, computed in
    float32 at least: in half precision ``var`` of a small filter and ``eps`` itself are 0.

    Args:
        weight: [out, in, height, width].
        eps: Added to the variance; 1e-10 in google-research/big_transfer.

    Returns:
        [out, in, height, width] in the dtype of ``weight``.
    """
    exact = weight if weight.dtype == torch.float64 else weight.float()
    # Layer norm of a filter: one operator each way, and two numbers a filter saved in between.
    channels_last = exact.permute(0, 2, 3, 1)
    if channels_last.is_contiguous() and not exact.is_contiguous():
        standardized = F.layer_norm(channels_last, channels_last.shape[1:], eps=eps)
        return standardized.permute(0, 3, 1, 2).to(weight.dtype)
    return F.layer_norm(exact, exact.shape[1:], eps=eps).to(weight.dtype)


class StdConv2d(nn.Conv2d):
    """Square convolution without bias whose filters are standardized before use.

    Of a frozen weight, and in eval mode without gradients of any weight, the standardized form is
    computed once and kept (not while the weight still holds a ``grad``, which says that it is
    about to change). It is computed anew after anything that autograd's version counter, the
    weight's storage and shape, a forward with gradients or a call of ``train()``, ``eval()``,
    ``to()`` or ``load_state_dict()`` gives away. A write that autograd does not see
    (``weight.data.mul_()``, a view of NumPy's, another process) escapes it: write under
    ``torch.no_grad()`` instead, or call ``train()`` or ``eval()`` afterwards. Inside
    torch.compile, torch.export and the TorchScript compilers standardization is part of the graph,
    and under FSDP, which frees weights between forwards, nothing is kept.

    Args:
        in_channels: Channels of the input.
        out_channels: Number of filters.
        kernel_size: Height and width.
        stride: Stride.
        dilation: Dilation.
        padding: None: symmetric and fixed, so that stride 1 keeps the size. "same": TensorFlow's,
            from the input size. "valid": none.
        eps: Epsilon of the standardization.
    """

    __jit_ignored_attributes__ = ("_kept",)

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
        # At stride 1 SAME is symmetric, and a 1x1 kernel needs none: only the rest is dynamic.
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
        # (alias of the weight it came from, that weight's version, standardized weight)
        self._kept: tuple[Tensor, int, Tensor] | None = None

    def reset_parameters(self) -> None:
        """Kaiming normal initialisation by fan-out, as timm and transformers do."""
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Convolves [N, in, H, W] with the standardized filters."""
        if self.pads_same:
            x = pad_same(x, self.kernel_size[0], self.stride[0], self.dilation[0], 0.0)
        weight = self.standardized_weight()
        if not torch.jit.is_scripting():  # noqa: SIM102 (alone, so that TorchScript skips it)
            if not torch.compiler.is_compiling():  # dynamo of torch 2.8 knows no NamedTuple
                geometry, recipe = geometry_of(self, x), recipe_of(x, weight)
                if recipe is not None:
                    return convolve_made(x, weight, geometry, recipe)
                return convolve(x, weight, geometry)
        return F.conv2d(x, weight, None, self.stride, self.padding, self.dilation)

    def standardized_weight(self) -> Tensor:
        """Returns the filters as the convolution uses them, [out, in, height, width]."""
        if torch.jit.is_scripting() or torch.compiler.is_compiling():
            return standardize(self.weight, self.eps)
        return self._standardized_once()

    @torch.jit.unused
    def _standardized_once(self) -> Tensor:
        weight = self.weight
        # FSDP refills one memory at every forward, behind the version counter's back.
        is_gathered = getattr(self, "_is_fsdp_managed_module", False)
        if is_gathered or not _may_be_kept(weight, self.training):
            self._kept = None
            return standardize(weight, self.eps)
        if self._kept is not None:
            alias, version, standardized = self._kept
            if version == weight._version and _is_same_memory(alias, weight):
                return standardized
        # Kept tensors outlive an inference_mode block, so they must not be inference tensors.
        with torch.inference_mode(False), torch.no_grad():
            standardized = standardize(weight, self.eps)
            if is_real(standardized):
                self._kept = (weight.detach(), weight._version, standardized)
        return standardized

    def train(self, mode: bool = True) -> StdConv2d:
        """Sets the mode and forgets the kept weight."""
        self._kept = None
        return super().train(mode)

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]
        self._kept = None
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        self._kept = None
        return super()._load_from_state_dict(*args, **kwargs)

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_kept": None}


def _may_be_kept(weight: Tensor, training: bool) -> bool:
    """Whether a weight's standardized form can be kept: a real parameter that will not change.

    A parameter that holds a gradient will, and one that trains may: fused optimizers do not even
    count it as a version.
    """
    return (
        type(weight) is nn.Parameter
        and not (weight.requires_grad and (training or torch.is_grad_enabled()))
        and weight.grad is None
        and not (weight.is_inference() or torch.jit.is_tracing())
    )


def _is_same_memory(alias: Tensor, weight: Tensor) -> bool:
    """Whether two tensors are one view; the alias keeps its storage, and so its address, taken."""
    return (
        alias.data_ptr() == weight.data_ptr()
        and alias.shape == weight.shape
        and alias.stride() == weight.stride()
        and alias.dtype == weight.dtype
    )


def is_real(tensor: Tensor) -> bool:
    """Whether a tensor means something outside the transform or tracer that made it."""
    return type(tensor) is Tensor and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)


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
