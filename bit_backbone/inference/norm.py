"""GroupNorm + activation of large channels-last maps on the CPU, for inference."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bit_backbone.convolution import is_real
from bit_backbone.layers import GroupNormAct

__all__ = ["ChunkedGroupNormAct"]

# Pixels whose moments are taken together. PyTorch's channels-last kernels sum pixel after pixel in
# float32, so that their error grows with the map; with 1024 the features of R50x1 are as close to
# float64's as those of the contiguous layout, with 4096 three times as far.
CHUNK = 1024


class ChunkedGroupNormAct(GroupNormAct):
    """GroupNormAct in three passes over a large channels-last map instead of five.

    The moments are taken by channel and by chunk of pixels and then put together (Chan et al.,
    1983), which reads the map once; scale, shift and activation are applied in one more pass, over
    the input itself where nothing else needs it. Up to CHUNK pixels PyTorch's own does as well.

    Attributes:
        in_place: Whether the input may be overwritten.
    """

    in_place: bool

    @classmethod
    def adopt(cls, norm: GroupNormAct) -> None:
        """Turns a GroupNormAct into a ChunkedGroupNormAct that leaves its input alone."""
        chunked: Any = norm
        chunked.__class__ = cls
        chunked.in_place = False

    def forward(self, x: Tensor) -> Tensor:
        """Normalises and activates [N, C, H, W]."""
        if torch.jit.is_scripting() or torch.compiler.is_compiling():
            return super().forward(x)
        return self._run(x)

    @torch.jit.unused
    def _run(self, x: Tensor) -> Tensor:
        if not _is_worth_chunks(x):
            return super().forward(x)
        y = x if self.in_place else torch.empty_like(x)
        for image, out in zip(_rows(x), _rows(y), strict=True):
            scale, shift = self._affine(image)
            torch.addcmul(shift, image, scale, out=out)
        return self.act(y)

    def _affine(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the scale and shift [C] that normalise an image [pixels, C]."""
        chunks = image.split(CHUNK)
        moments = [torch.batch_norm_update_stats(chunk, None, None, 0.0) for chunk in chunks]
        means = torch.stack([mean for mean, _ in moments])
        variances = torch.stack([variance for _, variance in moments])
        share = means.new_tensor([[len(chunk) / len(image)] for chunk in chunks])
        mean = self._by_group((share * means).sum(0))
        variance = self._by_group((share * (variances + (means - mean).square_())).sum(0))
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return scale, self.bias - mean * scale

    def _by_group(self, values: Tensor) -> Tensor:
        """Replaces the value of each channel, [C], by the mean over its group."""
        grouped = values.view(self.num_groups, -1)
        return grouped.mean(1, keepdim=True).expand_as(grouped).reshape(-1)


def _is_worth_chunks(x: Tensor) -> bool:
    return (
        is_real(x)
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.ndim == 4
        and x.shape[2] * x.shape[3] > CHUNK
        and x.is_contiguous(memory_format=torch.channels_last)
        and not (torch.is_grad_enabled() and x.requires_grad)
        and not torch.jit.is_tracing()
    )


def _rows(x: Tensor) -> Tensor:
    """Views a channels-last [N, C, H, W] as [N, H * W, C]."""
    return x.permute(0, 2, 3, 1).view(len(x), -1, x.shape[1])
