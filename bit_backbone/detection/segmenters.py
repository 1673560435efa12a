"""torchvision's segmenters with the interface of torchvision's detectors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.segmentation import FCN, DeepLabV3

from bit_backbone.datasets.semantic import IGNORED
from bit_backbone.torchvision.defaults import PIXEL_MEAN, PIXEL_STD

AUX_WEIGHT = 0.5  # pytorch/vision, references/segmentation/train.py


class Segmenter(nn.Module):
    """Takes a list of images in 0..1; returns losses in training mode, and label maps in eval mode.

    torchvision's segmenters need a normalised tensor and do not compute a loss. This class does
    both, so that code for detectors also trains, evaluates and draws segmenters.

    Args:
        network: DeepLabV3 or FCN of ``bit_backbone.torchvision``, with or without "aux".
    """

    def __init__(self, network: DeepLabV3 | FCN) -> None:
        super().__init__()
        self.network = network

    @property
    def backbone(self) -> nn.Module:
        """The network's, under the name that detectors have it by."""
        return self.network.backbone

    def forward(
        self, images: list[Tensor], targets: list[dict[str, Any]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Computes losses in training mode, labels in eval mode.

        Images of a training batch are padded to a common size on the right and below, and the
        padding is ignored. In eval mode each image is computed by itself, because padding changes
        BiT's norms.

        Args:
            images: float32 [3, H, W] in 0..1 each.
            targets: With "semantic", int64 [H, W] each; in training.

        Returns:
            ``loss_semantic`` and, with an auxiliary head, ``loss_aux``, already weighted; or for
            each image {"semantic": int64 [H, W]}.

        Raises:
            ValueError: Training mode without targets, or DeepLabV3 in training mode on one image,
                whose pooled branch has a batch norm that needs two values.
        """
        if not self.training:
            return [{"semantic": self._label(image)} for image in images]
        if targets is None:
            raise ValueError(
                "in training mode a segmenter takes images and targets, got no targets"
            )
        if len(images) < 2 and isinstance(self.network, DeepLabV3):
            raise ValueError(
                "DeepLabV3 trains on at least 2 images per process, for its batch norm over pooled "
                f"features; got {len(images)}: raise the batch size, or train fcn_bit"
            )
        outputs = self.network(normalise(pad_batch(images, PIXEL_MEAN)))
        labels = pad_batch([target["semantic"] for target in targets], IGNORED)
        losses = {"loss_semantic": pixel_loss(outputs["out"], labels)}
        if "aux" in outputs:
            losses["loss_aux"] = AUX_WEIGHT * pixel_loss(outputs["aux"], labels)
        return losses

    def _label(self, image: Tensor) -> Tensor:
        return self.network(normalise(image[None]))["out"][0].argmax(0)


def normalise(images: Tensor) -> Tensor:
    """Brings pixels from 0..1 to BiT's range."""
    return (images - PIXEL_MEAN) / PIXEL_STD


def pad_batch(tensors: list[Tensor], value: float) -> Tensor:
    """Stacks [.., H, W] tensors of differing sizes, filled up on the right and below."""
    height, width = (max(t.shape[axis] for t in tensors) for axis in (-2, -1))
    padded = [F.pad(t, (0, width - t.shape[-1], 0, height - t.shape[-2]), value=value)
              for t in tensors]  # fmt: skip
    return torch.stack(padded)


def pixel_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns the mean cross entropy over the pixels that count, 0 where none does.

    Args:
        logits: [N, K, H, W].
        labels: int64 [N, H, W], 255 where a pixel does not count.
    """
    total = F.cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="sum")
    return total / (labels != IGNORED).sum().clamp(min=1)
