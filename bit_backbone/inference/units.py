"""The residual unit of a model optimized for inference, which adds in place."""

from __future__ import annotations

import torch
from torch import Tensor

from bit_backbone.kernels.gate import has_hooks
from bit_backbone.network import PreActUnit

__all__ = ["InPlacePreActUnit"]


class InPlacePreActUnit(PreActUnit):
    """PreActUnit whose last convolution, a FoldedConv2d, adds to the shortcut in place.

    The shortcut is the unit's input, except in a stage's first unit, which keeps its input.
    """

    adds_in_place = True

    def forward(self, x: Tensor, activated: Tensor | None = None) -> Tensor:
        """Maps raw residual sums to raw residual sums; ``activated`` is norm1(x), if computed."""
        activated = self.norm1(x) if activated is None else activated
        branch = self.conv1(activated)
        source = x if self.downsample is None else activated
        activated = None  # frees it, unless a projection needs it, while the branch is made
        branch = self.norm3(self.conv2(self.norm2(branch)))
        # Not earlier: it is as large as the two maps above, which are freed by now.
        shortcut = source if self.downsample is None else self.downsample(source)
        if self.crops:
            return self.conv3(branch) + self.cropped(shortcut, branch)
        if not torch.jit.is_scripting():  # noqa: SIM102 (by itself, so that TorchScript skips it)
            if has_hooks(self.conv3):  # hooks see its result and may replace it
                return self.conv3(branch) + shortcut
        return self.conv3(branch, shortcut)
