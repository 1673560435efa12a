"""Fine-tuning a classifier by BiT-HyperRule, in one process or several, resumable at any step."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bit_backbone.finetune import mixup
from bit_backbone.finetune.accuracy import Metrics, evaluate
from bit_backbone.finetune.settings import FineTuneSettings
from bit_backbone.finetune.splitting import backward_in_parts
from bit_backbone.finetune.start import as_resumed, note_training, start_of_run
from bit_backbone.heads import BitForImageClassification
from bit_backbone.training.loop import Task, TrainingResult, run_task
from bit_backbone.training.parallel import without_sync
from bit_backbone.training.state import RunState
from bit_backbone.training.stream import MIXUP, STOCHASTIC_DEPTH, BatchPlan, ExampleStream, forked
from bit_backbone.utils.processes import ProcessGroup
from bit_backbone.utils.unreadable import Unreadable

FineTuneResult = TrainingResult[Metrics]


def finetune(
    model: BitForImageClassification,
    train_set: Any,
    folder: str | os.PathLike[str],
    settings: FineTuneSettings | None = None,
    *,
    eval_set: Any = None,
    device: str | torch.device | None = None,
    must_match: Mapping[str, Any] | None = None,
    show_progress: bool = True,
) -> FineTuneResult:
    """Fine-tunes a classifier by BiT-HyperRule (arXiv 1912.11370, section 3.3).

    Resumes the run in ``folder``, if there is one. A resumed run ends with the same weights as a
    run without interruption, on the same kind of machine and with deterministic kernels. Ctrl-C and
    SIGTERM save and end the run after the current step. Under torchrun every process makes the same
    call, and each computes its share of every batch.

    Args:
        model: The classifier, with a head for the data set's classes; it is trained in place.
            With FSDP it is sharded afterwards, and ``last.pt`` holds its weights. To resume a run,
            pass the network with the weights from which the run started, or with those that it has
            reached.
        train_set: Map-style data set of (image [C, H, W], class), ready for the network.
        folder: Folder of the run. Receives ``last.pt``, ``log.jsonl`` and, if tensorboard is
            installed, its event files; with FSDP a folder of shards, and ``last.pt`` at the end.
        settings: Settings of the run; None for the rule's.
        eval_set: The same for evaluation; None for no evaluation.
        device: Where to compute; None for this process's GPU, or the CPU if there is none.
        must_match: Further values that must be equal when a run is resumed, such as the
            preprocessing; numbers, strings, lists and dicts.
        show_progress: Whether to show a progress bar.

    Returns:
        The end of the run.

    Raises:
        ValueError: The settings do not fit the data or the number of processes, a loss is not
            finite, or the folder contains a run with other settings.
    """
    settings = settings or FineTuneSettings()
    make = partial(FineTuneTask, model, train_set, eval_set, settings, must_match or {})
    return run_task(make, folder, settings, device, show_progress)


class FineTuneTask(Task[FineTuneSettings, Metrics]):
    """Learning to classify, with the arguments of ``finetune``."""

    title = "fine-tuning"

    def __init__(
        self,
        model: BitForImageClassification,
        train_set: Any,
        eval_set: Any,
        settings: FineTuneSettings,
        must_match: Mapping[str, Any],
        group: ProcessGroup,
    ) -> None:
        schedule = settings.schedule(len(train_set))
        self.alpha = settings.alpha(len(train_set))
        _check_batches(settings, self.alpha, group.world_size)
        rates = schedule.total, schedule.learning_rate
        super().__init__(train_set, eval_set, settings, group, *rates)
        self.classifier, self.must_match = model, must_match
        scales = settings.precision == "float16"
        self.scaler = torch.amp.GradScaler(group.device.type, enabled=scales)

    def run_settings(self, saved: RunState | None, folder: Path) -> dict[str, Any]:
        """Returns settings, data, and the network and weights that the run started from."""
        settings = self.settings.to_record() | {
            "num_examples": len(self.train_set),
            "num_labels": self.classifier.num_labels,
            **start_of_run(self.classifier, self.group),
            **self.must_match,
        }
        return settings if saved is None else as_resumed(settings, saved, self.classifier, folder)

    def build(self, saved: RunState | None, folder: Path) -> nn.Module:
        """Returns the model that was given."""
        note_training(self.classifier, folder)
        return self.classifier

    def remember(self) -> dict[str, Any]:
        """Returns the state of the loss scaler."""
        return self.scaler.state_dict()

    def recall(self, remembered: dict[str, Any]) -> None:
        """Takes the state of the loss scaler."""
        self.scaler.load_state_dict(remembered)

    def make_optimizer(self, trained: list[nn.Parameter]) -> torch.optim.Optimizer:
        """Returns SGD; the rule has no weight decay: weight standardization would undo it."""
        return torch.optim.SGD(trained, self.settings.base_lr, self.settings.momentum)

    def plan(self, steps: range) -> BatchPlan:
        """Returns batches cut from one shuffled pass after another."""
        stream = ExampleStream(len(self.train_set), self.settings.seed)
        processes = self.group.rank, self.group.world_size
        return BatchPlan(stream, self.settings.batch_size, steps, *processes)

    def step(self, batch: tuple[Tensor, Tensor], step: int) -> dict[str, float]:
        """Makes an optimizer step.

        Args:
            batch: Images [N, C, H, W] and classes [N]: this process's share.
            step: Number of the step, which random draws follow from.

        Returns:
            "loss": the mean over the batch of all processes.

        Raises:
            ValueError: The loss is not finite.
        """
        images, labels = (t.to(self.group.device, non_blocking=True) for t in batch)
        self.optimizer.zero_grad()
        seeds = self.settings.seed, STOCHASTIC_DEPTH, step, self.group.rank
        with forked(self.group.device, *seeds):
            loss = self._backward(self._mix(images, labels, step))
        mean = self.group.sum(loss).item() / self.group.world_size
        if not np.isfinite(mean) and not self.scaler.is_enabled():
            raise ValueError(
                f"the loss of step {step} is {mean}; start again in another folder, with a base_lr "
                f"smaller than {self.settings.base_lr:g}{_or_exactly(self.settings.precision)}: "
                "this run resumes only with its own settings"
            )
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return {"loss": mean}

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
        targets = mixup.mix_labels(labels, self.classifier.num_labels, weight)
        return mixed, targets.to(images.dtype)

    def _loss(self, images: Tensor, targets: Tensor) -> Tensor:
        with self.autocast():
            (logits,) = self.network(images, output_hidden_states=False, return_dict=False)
        return F.cross_entropy(logits.to(images.dtype), targets)

    def evaluate(self, advance: Callable[[int], None], failed: list[Unreadable]) -> Metrics:
        """Returns loss and accuracy."""
        settings = self.settings
        share = settings.batch_size // self.group.world_size // settings.batch_split
        options: dict[str, Any] = {"batch_size": share, "workers": settings.workers}
        options["failed"] = failed
        return evaluate(self.model, self.eval_set, self.group, advance=advance, **options)

    def values(self, metrics: Metrics) -> dict[str, float]:
        """Returns the metrics by name."""
        return asdict(metrics)


def _or_exactly(precision: str) -> str:
    return "" if precision == "float32" else f" or with precision float32 instead of {precision}"


def _check_batches(settings: FineTuneSettings, alpha: float, world_size: int) -> None:
    unit = 2 * world_size if alpha else world_size
    if settings.batch_size % unit:
        mixing = " and each process's share even, for mixup," if alpha else ""
        raise ValueError(
            f"the batch size must be a multiple of the number of processes{mixing} that is, of "
            f"{unit}; "
            f"got {settings.batch_size}"
        )
    share = settings.batch_size // world_size
    if settings.batch_split > share:
        raise ValueError(
            f"batch_split must be at most the batch of one process, {share}, got "
            f"{settings.batch_split}"
        )
