"""Which pixels of the last stage a classifier's answer comes from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bit_backbone.heads import BitForImageClassification


@dataclass(frozen=True)
class Evidence:
    """The logits of an image, and where they come from.

    The head is linear, and takes the mean of the last map after its norm and activation. A logit
    is therefore, exactly, the sum of a contribution of each pixel and a bias.

    Attributes:
        logits: [K].
        last: The map that is averaged, [C, H, W].
        weight: Of the head, [K, C].
        bias: Of the head, [K].
    """

    logits: Tensor
    last: Tensor
    weight: Tensor
    bias: Tensor

    def contributions(self, label: int) -> Tensor:
        """Returns what each pixel adds to the logit of a class, [H, W]."""
        pixels = self.last.shape[1] * self.last.shape[2]
        return torch.einsum("c,chw->hw", self.weight[label], self.last) / pixels


@torch.inference_mode()
def evidence(model: BitForImageClassification, pixel_values: Tensor) -> Evidence:
    """Classifies an image.

    Args:
        model: In eval mode, with a head.
        pixel_values: [1, 3, H, W].

    Raises:
        ValueError: The model has no head.
    """
    head = model.classifier
    if not isinstance(head, nn.Linear):
        raise ValueError("evidence is for classes, and this model has no head: num_labels is 0")
    deepest = model.config.stage_names[-1]
    last = model.raw_taps(pixel_values.to(head.weight), [deepest])[deepest]
    if model.norm is not None:
        last = model.norm(last)
    logits = head(last.mean((2, 3)))
    parts = (logits[0], last[0], head.weight.detach(), head.bias.detach())
    return Evidence(*(part.float().cpu() for part in parts))
