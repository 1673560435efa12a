"""GroupNorm + activation of large channels-last maps on the CPU, for inference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bit_backbone import kernels
from bit_backbone.inference.convolution import NO_TRAINING
from bit_backbone.kernels.gate import (
    has_hooks,
    has_values,
    is_compiled,
    is_eager,
    is_exported,
    is_recorded,
)
from bit_backbone.network.layers import GroupNormAct

__all__ = ["ChunkedGroupNormAct"]

# Pixels whose moments are taken in one go, so that the second pass over them finds them in cache.
CHUNK = 4096
# Neighbouring pixels that count as one of FOLD times the channels meanwhile. PyTorch's kernels sum
# pixel after pixel in float32, and their error grows with the length of the sum.
FOLD = 4
# Longest sum that is left to PyTorch's channels-last GroupNorm, in pixels. With it the features of
# R50x1 are as close to float64's as in the contiguous layout, with 1024 two to four times as far.
LONGEST_SUM = 128


@kernels.returns_new_memory
class ChunkedGroupNormAct(GroupNormAct):
    """GroupNormAct in three passes over a large channels-last map instead of five.

    The moments are taken by channel and by chunk of pixels and then put together (Chan et al.,
    1983), which reads the map once; scale, shift and activation are applied in one more pass, over
    the input itself where nothing else needs it. Maps of up to LONGEST_SUM pixels are left to
    PyTorch's own.

    Attributes:
        in_place: Whether the input may be overwritten.
        behind: The convolutions that make the input. Hooks on them may keep it: then it is not.
    """

    __jit_ignored_attributes__ = ("behind",)

    if TYPE_CHECKING:  # TorchScript evaluates the annotations that it finds in a class
        in_place: bool
        behind: tuple[nn.Module, ...]  # in a tuple they are no children

    @classmethod
    def adopt(cls, norm: GroupNormAct) -> None:
        """Turns a GroupNormAct into a ChunkedGroupNormAct that leaves its input alone."""
        chunked: Any = norm
        chunked.__class__ = cls
        chunked.in_place, chunked.behind = False, ()

    def forward(self, x: Tensor) -> Tensor:
        """Normalises and activates [N, C, H, W].

        Raises:
            ValueError: Autograd would have to record it.
        """
        if torch.jit.is_scripting():  # which has no super().forward
            x = torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)
            return self.act(x)
        return self._run(x)

    @torch.jit.unused
    def _run(self, x: Tensor) -> Tensor:
        if not _is_taken(x):
            return super().forward(x)
        arguments = (self.weight, self.bias, self.num_groups, self.eps)
        if is_compiled():
            return self.act(_compiled_group_norm(x, *arguments))
        if is_recorded(self.weight, self.bias):
            raise ValueError(NO_TRAINING)
        if not (has_values(x) and _is_worth_chunks(x)):
            return super().forward(x)
        overwrites = self.in_place and not has_hooks(*self.behind)
        return self.act(_group_norm_by_chunks(x, *arguments, out=x if overwrites else None))


def _is_taken(x: Tensor) -> bool:
    return (
        ((is_compiled() and not is_exported()) or is_eager(x))
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.ndim == 4
        and not is_recorded(x)
    )


def _is_worth_chunks(x: Tensor) -> bool:
    return x.shape[2] * x.shape[3] > LONGEST_SUM and x.is_contiguous(
        memory_format=torch.channels_last
    )


# Opaque to compilers: inductor's own moments take twice as long. What is made of them it fuses.
@torch.library.custom_op("bit_backbone::group_norm_affine", mutates_args=())
def _group_norm_affine(
    x: Tensor, weight: Tensor, bias: Tensor, num_groups: int, eps: float
) -> tuple[Tensor, Tensor]:
    """Returns scale and shift, [N, C], that normalise [N, C, H, W]."""
    if _is_worth_chunks(x):
        affine = [_affine(image, weight, bias, num_groups, eps) for image in _rows(x)]
        scales, shifts = zip(*affine, strict=True)
        return torch.stack(scales), torch.stack(shifts)
    images, channels, height, width = x.shape
    sizes = images, channels, height * width, num_groups
    _, mean, rstd = torch.native_group_norm(x, None, None, *sizes, eps)
    mean, rstd = (t.repeat_interleave(channels // num_groups, 1) for t in (mean, rstd))
    scale = weight * rstd
    return scale, bias - mean * scale


@_group_norm_affine.register_fake
def _(
    x: Tensor, weight: Tensor, bias: Tensor, num_groups: int, eps: float
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape[:2]), x.new_empty(x.shape[:2])


def _compiled_group_norm(
    x: Tensor, weight: Tensor, bias: Tensor, num_groups: int, eps: float
) -> Tensor:
    scale, shift = _group_norm_affine(x, weight, bias, num_groups, eps)
    return x * scale[..., None, None] + shift[..., None, None]


def _group_norm_by_chunks(
    x: Tensor, weight: Tensor, bias: Tensor, num_groups: int, eps: float, out: Tensor | None
) -> Tensor:
    """Normalises channels-last [N, C, H, W] into ``out``, which may be ``x``."""
    out = torch.empty_like(x) if out is None else out
    for image, normalised in zip(_rows(x), _rows(out), strict=True):
        scale, shift = _affine(image, weight, bias, num_groups, eps)
        torch.addcmul(shift, image, scale, out=normalised)
    return out


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
