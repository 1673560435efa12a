"""GroupNorm + activation on the CPU, for inference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bit_backbone import kernels
from bit_backbone.inference.convolution import NO_TRAINING
from bit_backbone.kernels import native
from bit_backbone.kernels.activations import activate, activation_name
from bit_backbone.kernels.gate import (
    has_hooks,
    has_values,
    is_compiled,
    is_eager,
    is_exported,
    is_recorded,
)
from bit_backbone.network import GroupNormAct

__all__ = ["InferenceGroupNormAct"]

# Pixels whose moments are computed together, so that the second pass finds them in the cache.
CHUNK = 4096
# Neighbouring pixels that are treated as one pixel with FOLD times the channels. PyTorch's kernels
# sum pixel after pixel in float32, and their error grows with the length of the sum.
FOLD = 4
# Longest sum, in pixels, for PyTorch's channels-last GroupNorm. With this limit, features of R50x1
# are as close to float64's as in the contiguous layout; with 1024 the error is 2 to 4 times that.
LONGEST_SUM = 128


@kernels.returns_new_memory
class InferenceGroupNormAct(GroupNormAct):
    """GroupNormAct that reads a map once for its moments and writes the result in one more pass.

    It overwrites the input if nothing else needs that. The native kernel, if it is built, handles
    float32 and bfloat16. Otherwise PyTorch's operators handle large channels-last maps in float32:
    they compute moments by channel and chunk of pixels, and combine them after Chan et al. (1983).
    GroupNormAct handles all other inputs.

    Attributes:
        in_place: Whether the input may be overwritten.
        made_by: The convolutions that make the input. It is not overwritten if they have hooks,
            which may keep it.
    """

    __jit_ignored_attributes__ = ("made_by",)

    if TYPE_CHECKING:  # TorchScript evaluates the annotations that it finds in a class
        in_place: bool
        made_by: tuple[nn.Module, ...]  # a tuple, so that they are not children

    @classmethod
    def adopt(cls, norm: GroupNormAct) -> None:
        """Turns a GroupNormAct into an InferenceGroupNormAct that does not change its input."""
        fast: Any = norm
        fast.__class__ = cls
        fast.in_place, fast.made_by = False, ()

    def forward(self, x: Tensor) -> Tensor:
        """Normalises and activates [N, C, H, W].

        Raises:
            ValueError: Autograd would record the operation.
        """
        if torch.jit.is_scripting():  # TorchScript lacks super().forward
            x = torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)
            return self.act(x)
        return self._run(x)

    @torch.jit.unused
    def fits(self) -> bool:
        """Whether ``norm_conv`` can compute its norm, which scales and shifts each channel."""
        known = [self._parameters.get(name) for name in ("weight", "bias")]
        channels, groups = self.num_channels, self.num_groups
        fits = all(each is not None and each.shape == (channels,) for each in known)
        return fits and groups > 0 and channels % groups == 0

    @torch.jit.unused
    def _run(self, x: Tensor) -> Tensor:
        if not _is_taken(x, self.weight, self.bias, self.num_groups):
            return super().forward(x)
        if is_recorded(self.weight, self.bias):
            raise ValueError(NO_TRAINING)
        name = activation_name(self.act)
        act = name if name in native.ACTIVATIONS else "none"
        arguments = (x, self.weight, self.bias, self.num_groups, self.eps, act)
        if is_compiled():
            y = _opaque_group_norm_act(*arguments)
        elif _is_fast(x):
            overwrites = self.in_place and not has_hooks(*self.made_by)
            y = _group_norm_act(*arguments, x if overwrites else None)
        else:
            return super().forward(x)
        return y if act == name else self.act(y)


def _is_taken(x: Tensor, weight: Tensor, bias: Tensor, num_groups: int) -> bool:
    return (
        ((is_compiled() and not is_exported()) or is_eager(x, weight, bias))
        and x.device.type == weight.device.type == bias.device.type == "cpu"
        and x.dtype in native.DTYPES
        and x.ndim == 4
        # GroupNorm raises the error for sizes that do not match, as after pruning only one layer.
        and weight.shape == bias.shape == x.shape[1:2]
        and x.shape[1] % num_groups == 0
        and not is_recorded(x)
    )


def _is_fast(x: Tensor) -> bool:
    """Whether there is a faster implementation than PyTorch's GroupNorm."""
    is_last = x.is_contiguous(memory_format=torch.channels_last)
    if native.can_run(x) and (is_last or x.is_contiguous()):
        return True
    large = x.shape[2] * x.shape[3] > LONGEST_SUM
    return x.dtype == torch.float32 and is_last and large and has_values(x)


def _group_norm_act(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    num_groups: int,
    eps: float,
    act: str,
    out: Tensor | None,
) -> Tensor:
    """Normalises and activates an ``x`` that ``_is_fast`` accepts, into ``out`` (may be ``x``)."""
    if native.can_run(x):
        return native.group_norm_act(x, num_groups, weight, bias, eps, act, out)
    out = torch.empty_like(x) if out is None else out
    for image, normalised in zip(_rows(x), _rows(out), strict=True):
        scale, shift = _affine(image, weight, bias, num_groups, eps)
        torch.addcmul(shift, image, scale, out=normalised)
    return activate(out, act)


# Opaque to compilers: inductor's own moments take twice as long.
@torch.library.custom_op("bit_backbone::inference_group_norm_act", mutates_args=())
def _opaque_group_norm_act(
    x: Tensor, weight: Tensor, bias: Tensor, num_groups: int, eps: float, act: str
) -> Tensor:
    if _is_fast(x):
        return _group_norm_act(x, weight, bias, num_groups, eps, act, None)
    return activate(torch.group_norm(x, num_groups, weight, bias, eps), act)


@_opaque_group_norm_act.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, num_groups: int, eps: float, act: str) -> Tensor:
    return torch.empty_like(x)


def _affine(
    image: Tensor, weight: Tensor, bias: Tensor, num_groups: int, eps: float
) -> tuple[Tensor, Tensor]:
    """Returns scale and shift, [C], that normalise [pixels, C]."""
    mean, variance = _moments(image, num_groups)
    scale = weight * torch.rsqrt(variance + eps)
    return scale, bias - mean * scale


def _rows(x: Tensor) -> Tensor:
    """Views a channels-last [N, C, H, W] as [N, H * W, C]."""
    return x.permute(0, 2, 3, 1).view(len(x), -1, x.shape[1])


def _moments(image: Tensor, num_groups: int) -> tuple[Tensor, Tensor]:
    """Returns mean and variance of [pixels, C] over pixels and group, each repeated to [C]."""

    def by_group(values: Tensor) -> Tensor:
        grouped = values.view(num_groups, -1)
        return grouped.mean(1, keepdim=True).expand_as(grouped).reshape(-1)

    pixels, channels = image.shape
    whole = pixels // FOLD * FOLD
    parts = [part.view(-1, FOLD * channels) for part in image[:whole].split(CHUNK)]
    if whole < pixels:
        parts.append(image[whole:])
    moments = [torch.batch_norm_update_stats(part, None, None, 0.0) for part in parts]
    means = torch.cat([mean.view(-1, channels) for mean, _ in moments])
    variances = torch.cat([variance.view(-1, channels) for _, variance in moments])
    shares = [len(part) / pixels for part in parts for _ in range(part.shape[1] // channels)]
    share = means.new_tensor(shares)[:, None]
    mean = by_group((share * means).sum(0))
    return mean, by_group((share * (variances + (means - mean).square_())).sum(0))
