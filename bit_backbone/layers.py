"""The layers BiT is made of: standardized convolution, GroupNorm + activation, padding, pooling.

Functions that look at a tensor's size are leaves for torch.fx, so that symbolic tracing
(torchvision's ``create_feature_extractor``) keeps them dynamic. ``torch.fx.wrap`` reaches only the
calls of the module that it is used in: what network.py calls is wrapped there.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

GROUP_NORM_EPS = 1e-5


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
    variance, mean = torch.var_mean(exact, dim=[1, 2, 3], keepdim=True, correction=0)
    return ((exact - mean) * torch.rsqrt(variance + eps)).to(weight.dtype)


@torch.fx.wrap
def pad_same(x: Tensor, kernel_size: int, stride: int, dilation: int, value: float) -> Tensor:
    """Pads height and width as TensorFlow's SAME does, the odd pixel at the end.

    Integer arithmetic without ``max`` or ``ceil``: compilers and exporters take minutes over
    those once sizes are symbolic. Needs an extent of at least the stride, which every kernel
    larger than 1x1 of a ResNet has.

    Args:
        x: [N, C, H, W].
        kernel_size: Height and width of the kernel that follows.
        stride: Its stride.
        dilation: Its dilation.
        value: What to pad with.
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


@torch.fx.wrap
def max_pool_in_zero_ring(x: Tensor) -> Tensor:
    """3x3 max-pooling with stride 2 of ``x`` inside a one-pixel ring of zeros.

    BiT pads with zeros and then pools; ``max_pool2d(padding=1)`` pads with -inf, which is not
    the same where a border is negative. Written as that pooling plus a lower bound of 0 for the
    windows that reach the ring: no padded copy is made, and ONNX Runtime (which fuses a zero
    pad into the pooling as if it were -inf) computes it right.

    Args:
        x: [N, C, H, W].

    Returns:
        [N, C, (H + 1) // 2, (W + 1) // 2].
    """
    pooled = F.max_pool2d(x, 3, stride=2, padding=1)
    rows = torch.arange(pooled.shape[-2], device=x.device)
    columns = torch.arange(pooled.shape[-1], device=x.device)
    # window i covers 2i - 1 .. 2i + 1; the ring lies at -1 and at the size
    rows_touch = (rows == 0) | (2 * rows + 1 == x.shape[-2])
    columns_touch = (columns == 0) | (2 * columns + 1 == x.shape[-1])
    bound = torch.where(rows_touch[:, None] | columns_touch, 0.0, -float("inf"))
    return torch.maximum(pooled, bound.to(x.dtype))


def check_images(images: Tensor, num_channels: int) -> Tensor:
    """Returns ``images`` if a network can take them.

    Raises:
        ValueError: Not [N, num_channels, H, W], or not floating point.
    """
    if images.ndim != 4 or images.shape[1] != num_channels:
        raise ValueError(
            f"images must be [N, {num_channels}, H, W], got {list(images.shape)}; BitConfig's "
            "num_channels sets the channels"
        )
    if not images.is_floating_point():
        raise ValueError(
            f"images must be floating point, got {images.dtype}; BiT expects "
            "(pixels / 255 - 0.5) / 0.5"
        )
    return images


class StdConv2d(nn.Conv2d):
    """Square convolution without bias whose filters are standardized before use.

    While no gradient can reach the weight (it is frozen, or gradients are off) and none is held in
    ``weight.grad``, the standardized weight is computed once and kept. It is computed anew after
    anything that autograd's version counter, the weight's storage, a forward with gradients or a
    call of ``train()``, ``eval()``, ``to()`` or ``load_state_dict()`` gives away. A write that
    autograd does not see (``weight.data.mul_()``, a view of NumPy's, another process) escapes
    it: write under ``torch.no_grad()`` instead, or call ``train()`` or ``eval()`` afterwards.
    Inside torch.compile, torch.export and the TorchScript compilers standardization is part of
    the graph.

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
        return F.conv2d(x, weight, None, self.stride, self.padding, self.dilation)

    def standardized_weight(self) -> Tensor:
        """Returns the filters as the convolution uses them, [out, in, height, width]."""
        if torch.jit.is_scripting() or torch.compiler.is_compiling():
            return standardize(self.weight, self.eps)
        return self._standardized_once()

    @torch.jit.unused
    def _standardized_once(self) -> Tensor:
        weight = self.weight
        if not _may_be_kept(weight):
            self._kept = None
            return standardize(weight, self.eps)
        if self._kept is not None:
            alias, version, standardized = self._kept
            # The alias keeps its storage alive, so an equal address is the same storage.
            if alias.data_ptr() == weight.data_ptr() and version == weight._version:
                return standardized
        # Kept tensors outlive an inference_mode block, so they must not be inference tensors.
        with torch.inference_mode(False), torch.no_grad():
            standardized = standardize(weight, self.eps)
            if _is_real(standardized):
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


def _may_be_kept(weight: Tensor) -> bool:
    """Whether a weight's standardized form can be kept: a real parameter that will not change.

    A parameter that holds a gradient will: fused optimizers do not even count it as a version.
    """
    return (
        type(weight) is nn.Parameter
        and not (weight.requires_grad and torch.is_grad_enabled())
        and weight.grad is None
        and not (weight.is_inference() or torch.jit.is_tracing())
    )


def _is_real(tensor: Tensor) -> bool:
    """Whether a tensor means something outside the transform or tracer that made it."""
    return type(tensor) is Tensor and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)


def activation(name: str) -> nn.Module:
    """Returns the activation that BitConfig calls ``name``, in place where it can be."""
    if name == "gelu":
        return nn.GELU()
    if name == "gelu_new":
        return nn.GELU(approximate="tanh")
    return {"relu": nn.ReLU, "selu": nn.SELU}[name](inplace=True)


class GroupNormAct(nn.GroupNorm):
    """GroupNorm followed by an activation.

    A subclass of nn.GroupNorm, so that solvers which treat norms apart (detectron2's
    WEIGHT_DECAY_NORM) find it.

    Args:
        num_groups: Number of groups.
        num_channels: Channels of the input.
        act: "relu", "gelu", "selu", "gelu_new", or None for no activation.
    """

    def __init__(self, num_groups: int, num_channels: int, act: str | None = "relu") -> None:
        super().__init__(num_groups, num_channels, eps=GROUP_NORM_EPS)
        self.act = nn.Identity() if act is None else activation(act)

    def forward(self, x: Tensor) -> Tensor:
        """Normalises and activates [N, C, H, W]."""
        # F.group_norm refuses groups of a single value (a 1x1 map, one channel a group).
        x = torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)
        return self.act(x)


class StemPool(nn.Module):
    """The stem's 3x3 max-pooling with stride 2.

    Args:
        padding: None: a ring of zeros (BiT's). "same": as TensorFlow, with -inf. "valid": none.
    """

    def __init__(self, padding: str | None) -> None:
        super().__init__()
        self.padding = padding

    def forward(self, x: Tensor) -> Tensor:
        """Pools [N, C, H, W]."""
        if self.padding is None:
            return max_pool_in_zero_ring(x)
        if self.padding == "same":
            x = pad_same(x, 3, 2, 1, -float("inf"))
        return F.max_pool2d(x, 3, stride=2)

    def extra_repr(self) -> str:
        """Shows the padding when printed."""
        return f"padding={self.padding!r}"


class DropPath(nn.Module):
    """Stochastic depth (arXiv 1603.09382): drops a whole sample's branch while training.

    Args:
        rate: Probability of a drop, in [0, 1).
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Returns [N, C, H, W] with dropped samples 0 and the others divided by 1 - rate."""
        if not self.training:
            return x
        keep = 1.0 - self.rate
        return x * x.new_empty([x.shape[0], 1, 1, 1]).bernoulli_(keep).div_(keep)

    def extra_repr(self) -> str:
        """Shows the rate when printed."""
        return f"rate={self.rate:g}"
