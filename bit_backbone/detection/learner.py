"""One optimizer step of a detector or segmenter, on this process's share of a batch."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from bit_backbone.detection.settings import DetectionSettings
from bit_backbone.training.parallel import distribute
from bit_backbone.training.precision import PRECISIONS, autocast
from bit_backbone.training.stream import PROPOSALS, forked
from bit_backbone.utils.processes import ProcessGroup


class Learner:
    """A model with what trains it.

    Args:
        model: One of torchvision's detectors, or a ``Segmenter``; moved to the process's device,
            and trained in place.
        settings: The recipe.
        group: The processes.
    """

    def __init__(self, model: nn.Module, settings: DetectionSettings, group: ProcessGroup) -> None:
        self.model, self.settings, self.group = model, settings, group
        model.to(group.device)
        if settings.channels_last:
            # not the heads: torchvision's loss of keypoints takes views that need the other order
            model.get_submodule("backbone").to(memory_format=torch.channels_last)
        body: Any = model.get_submodule("backbone.body")
        body.set_grad_checkpointing(settings.grad_checkpointing)
        body.set_activation_recompute(settings.activation_recompute)
        dtype = PRECISIONS[settings.precision]
        self.network = distribute(model, group, fsdp=settings.fsdp, dtype=dtype)
        self.trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = _optimizer(self.trained, settings)

    def autocast(self) -> Any:
        """Returns the context of forward passes in the run's precision."""
        return autocast(self.group.device, self.settings.precision)

    def train_step(
        self, images: list[Tensor], targets: list[dict[str, Any]], step: int
    ) -> dict[str, float]:
        """Makes one step.

        Args:
            images: float32 [3, H, W] in 0..1 each, this process's share of the batch.
            targets: As the data set yields them.
            step: Number of the step, which the rate and every random draw follow from.

        Returns:
            The parts of the loss, and "loss", their sum; means over the processes.

        Raises:
            ValueError: The loss is not finite.
        """
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate(step)
        loss, values = self._losses(images, targets, step)
        if not math.isfinite(values["loss"]):
            raise ValueError(
                f"the loss of step {step} is not finite ({values}); start anew in another folder, "
                "with a smaller base_lr, a longer warm-up or precision float32: this run resumes "
                "with its own recipe alone"
            )
        self.optimizer.zero_grad()
        loss.backward()
        if self.settings.clip_norm:
            nn.utils.clip_grad_norm_(self.trained, self.settings.clip_norm)
        self.optimizer.step()
        return values

    def _losses(
        self, images: list[Tensor], targets: list[dict[str, Any]], step: int
    ) -> tuple[Tensor, dict[str, float]]:
        inputs = [image.to(self.group.device, non_blocking=True) for image in images]
        # what is random is which anchors and proposals the losses are computed on
        seeds = self.settings.seed, PROPOSALS, step, self.group.rank
        with forked(self.group.device, *seeds), self.autocast():
            parts = self.network(inputs, [self._on_device(target) for target in targets])
        stacked = torch.stack([part.float() for part in parts.values()])
        means = self.group.sum(stacked.detach().clone()) / self.group.world_size
        values = {"loss": means.sum().item()} | dict(zip(parts, means.tolist(), strict=True))
        return stacked.sum(), values

    def _on_device(self, target: dict[str, Any]) -> dict[str, Tensor]:
        tensors = {name: value for name, value in target.items() if isinstance(value, Tensor)}
        return {name: value.to(self.group.device) for name, value in tensors.items()}


def _optimizer(trained: list[nn.Parameter], settings: DetectionSettings) -> torch.optim.Optimizer:
    """Norms and biases are the parameters of one dimension."""
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, settings.base_lr)
    return torch.optim.SGD(groups, settings.base_lr, settings.momentum)
