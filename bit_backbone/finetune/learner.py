"""One optimizer step, on this process's share of a batch."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bit_backbone.finetune import mixup
from bit_backbone.finetune.settings import FineTuneSettings
from bit_backbone.finetune.splitting import backward_in_parts
from bit_backbone.heads import BitForImageClassification
from bit_backbone.training.parallel import distribute, without_sync
from bit_backbone.training.precision import PRECISIONS, autocast
from bit_backbone.training.stream import MIXUP, STOCHASTIC_DEPTH, forked
from bit_backbone.utils.processes import ProcessGroup


class Learner:
    """The model with what trains it.

    Args:
        model: A classifier; moved to the process's device, and trained in place.
        settings: Momentum, precision, batch split and seed.
        alpha: Of mixup's Beta(alpha, alpha); 0 for none.
        group: The processes.
    """

    def __init__(
        self,
        model: BitForImageClassification,
        settings: FineTuneSettings,
        alpha: float,
        group: ProcessGroup,
    ) -> None:
        self.model, self.settings, self.alpha, self.group = model, settings, alpha, group
        model.to(group.device)
        dtype = PRECISIONS[settings.precision]
        self.network = distribute(model, group, fsdp=settings.fsdp, dtype=dtype)
        # The rule has no weight decay: weight standardization would undo it.
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.SGD(trained, settings.base_lr, settings.momentum)
        self.scaler = torch.amp.GradScaler(
            group.device.type, enabled=settings.precision == "float16"
        )

    def autocast(self) -> AbstractContextManager[Any]:
        """Returns the context of forward passes in the run's precision."""
        return autocast(self.group.device, self.settings.precision)

    def train_step(self, images: Tensor, labels: Tensor, step: int, rate: float) -> float:
        """Makes one step.

        Args:
            images: This process's share of the batch, [N, C, H, W].
            labels: Its classes, [N].
            step: Number of the step, which random draws follow from.
            rate: Learning rate.

        Returns:
            The mean loss over the batch of all processes.

        Raises:
            ValueError: The loss is not finite.
        """
        self.model.train()
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = rate
        self.optimizer.zero_grad()
        seeds = self.settings.seed, STOCHASTIC_DEPTH, step, self.group.rank
        with forked(self.group.device, *seeds):
            loss = self._backward(self._mix(images, labels, step))
        mean = self.group.sum(loss).item() / self.group.world_size
        if not np.isfinite(mean) and not self.scaler.is_enabled():
            raise ValueError(
                f"the loss of step {step} is {mean}; start anew in another folder, with a base_lr "
                f"smaller than {self.settings.base_lr:g}{_or_exactly(self.settings.precision)}: "
                "this run resumes with its own recipe alone"
            )
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return mean

    def _backward(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        return backward_in_parts(
            self._loss,
            batch,
            self.settings.batch_split,
            backward=lambda loss: self.scaler.scale(loss).backward(),
            no_sync=lambda: without_sync(self.network),
        )

    def _mix(self, images: Tensor, labels: Tensor, step: int) -> tuple[Tensor, Tensor]:
        if not self.alpha:
            return images, labels
        rng = np.random.default_rng([self.settings.seed, MIXUP, step])
        weight = mixup.draw_weight(self.alpha, rng)
        mixed = mixup.mix_neighbours(images, weight)
        targets = mixup.mix_labels(labels, self.model.num_labels, weight)
        return mixed, targets.to(images.dtype)

    def _loss(self, images: Tensor, targets: Tensor) -> Tensor:
        with self.autocast():
            (logits,) = self.network(images, output_hidden_states=False, return_dict=False)
        return F.cross_entropy(logits.to(images.dtype), targets)


def _or_exactly(precision: str) -> str:
    return "" if precision == "float32" else f" or with precision float32 instead of {precision}"
