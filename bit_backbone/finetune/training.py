"""Fine-tuning a classifier by BiT-HyperRule, on one process or several, resumable to the step."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from bit_backbone.finetune.accuracy import Metrics, evaluate
from bit_backbone.finetune.learner import Learner
from bit_backbone.finetune.settings import FineTuneSettings
from bit_backbone.finetune.start import (
    has_trained,
    note_training,
    same_weights,
    start_of_run,
    with_known_start,
)
from bit_backbone.heads import BitForImageClassification
from bit_backbone.training.progress import Progress, Task
from bit_backbone.training.runlog import RunLog, is_evaluated
from bit_backbone.training.saving import Facts, RunStore
from bit_backbone.training.stream import BatchPlan, ExampleStream, SeededDataset
from bit_backbone.utils.processes import Interruption, process_group
from bit_backbone.utils.workers import serve_parent


@dataclass(frozen=True)
class FineTuneResult:
    """How a run ended.

    Attributes:
        step: Number of steps done.
        metrics: Results on the evaluation set at the end, if there is one and the end was reached.
        signal: Number of the signal that came, or 0; at the end, during the last evaluation.
    """

    step: int
    metrics: Metrics | None
    signal: int


def finetune(
    model: BitForImageClassification,
    train_set: Any,
    folder: str | os.PathLike[str],
    settings: FineTuneSettings | None = None,
    *,
    eval_set: Any = None,
    device: str | torch.device | None = None,
    facts: Mapping[str, Any] | None = None,
    show_progress: bool = True,
) -> FineTuneResult:
    """Fine-tunes a classifier by BiT-HyperRule (arXiv 1912.11370, section 3.3).

    Goes on with the run that ``folder`` holds, if it holds one, and then ends with the very
    weights of a run without interruption (on one kind of machine, where the kernels used are
    deterministic). Ctrl-C and SIGTERM save and end the run after the current step. Under torchrun
    every process calls this alike; each computes its share of every batch.

    Args:
        model: The classifier, with a head for the data set's classes; it is trained in place.
            With FSDP it is sharded afterwards, and ``last.pt`` holds its weights. A run is
            resumed with the network and the weights that it started from, or with those that it
            has reached.
        train_set: Map-style data set of (image [C, H, W], class), ready for the network.
        folder: Of the run; receives ``last.pt``, ``log.jsonl`` and, where tensorboard is
            installed, its event files; with FSDP ``last.pt`` at the end, and a folder of shards
            before.
        settings: The recipe; None for the rule's.
        eval_set: The same for evaluation; None for none.
        device: Where to compute; None for this process's GPU, or the CPU where there is none.
        facts: What else a resumed run must share with the run it goes on with, such as how images
            are prepared; numbers, strings, lists and dicts.
        show_progress: Whether to show a progress bar.

    Returns:
        How the run ended.

    Raises:
        ValueError: The settings do not fit the data or the number of processes, a loss is not
            finite, or the folder holds a run of another recipe.
    """
    settings = settings or FineTuneSettings()
    with (
        process_group(device) as group,
        Interruption() as interruption,
        RunStore(Path(folder), group, settings.fsdp) as store,
    ):
        run = _Run(model, train_set, eval_set, store, settings, facts or {})
        with Progress(show_progress and group.is_first) as progress:
            return run.until_done(interruption, progress)


class _Run:
    """One process's part of a run."""

    def __init__(
        self,
        model: BitForImageClassification,
        train_set: Any,
        eval_set: Any,
        store: RunStore,
        settings: FineTuneSettings,
        facts: Mapping[str, Any],
    ) -> None:
        self.train_set, self.eval_set = train_set, eval_set
        self.store, self.settings = store, settings
        self.folder, self.group = store.folder, store.group
        self.schedule = settings.schedule(len(train_set))
        alpha = settings.alpha(len(train_set))
        _check_batches(settings, alpha, self.group.world_size)
        self.recipe = settings.recipe() | {
            "num_examples": len(train_set),
            "num_labels": model.num_labels,
            **start_of_run(model, self.group),
            **facts,
        }
        saved = self.store.open()
        if saved is not None:
            self._check_resumption(model, saved)
        note_training(model, self.folder)
        self.step = 0 if saved is None else saved.step
        self.learner = Learner(model, settings, alpha, self.group)
        if saved is not None:
            self.store.restore(self.learner.model, self.learner.optimizer)
            self.learner.scaler.load_state_dict(saved.extra)

    def _check_resumption(self, model: BitForImageClassification, saved: Facts) -> None:
        weights = self.store.weights
        is_of_run = has_trained(model, self.folder)
        if saved.recipe.get("initial_weights") != self.recipe["initial_weights"]:
            is_of_run |= weights is not None and same_weights(model, weights)
        self.recipe = with_known_start(self.recipe, saved.recipe, is_of_run, self.folder)
        self.store.check_recipe(saved, self.recipe)

    def _save(self) -> None:
        self.store.save(self._facts(), self.learner.model, self.learner.optimizer)
        if self.step == self.schedule.total:
            self.store.finish(self._facts(), self.learner.model)

    def _facts(self) -> Facts:
        return Facts(self.step, self.recipe, self.learner.scaler.state_dict())

    def until_done(self, interruption: Interruption, progress: Progress) -> FineTuneResult:
        """Trains to the end of the schedule, or until a signal comes."""
        total = self.schedule.total
        log = RunLog(self.folder, self.step) if self.group.is_first else None
        try:
            if self.step == total:  # a kill may have come before
                self.store.finish(self._facts(), self.learner.model)
            metrics = self._catch_up(log, progress)
            bar = progress.training("fine-tuning", total, self.step)
            for images, labels in self._batches():
                self._step(images, labels, log, bar)
                number = self.group.max(interruption.signal)
                if number or self._is_evaluation_due() or self._is_save_due():
                    self._save()
                if number:
                    return FineTuneResult(self.step, None, number)
                if self._is_evaluation_due():
                    metrics = self._evaluate(log, progress)
            return FineTuneResult(self.step, metrics, self.group.max(interruption.signal))
        finally:
            if log is not None:
                log.close()

    def _step(self, images: Tensor, labels: Tensor, log: RunLog | None, bar: Task) -> None:
        rate = self.schedule.learning_rate(self.step)
        loss = self.learner.train_step(images, labels, self.step, rate)
        if log is not None:
            log.write(self.step, loss=loss, learning_rate=rate)
        self.step += 1
        bar.advance(1, loss=loss, rate=rate)

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        settings, group = self.settings, self.group
        plan = BatchPlan(
            ExampleStream(len(self.train_set), settings.seed),
            settings.batch_size,
            range(self.step, self.schedule.total),
            group.rank,
            group.world_size,
        )
        loader = DataLoader(
            SeededDataset(self.train_set, settings.seed),
            batch_sampler=plan,
            num_workers=settings.workers,
            pin_memory=group.device.type == "cuda",
            worker_init_fn=serve_parent,
        )
        for images, labels in loader:
            yield tuple(t.to(group.device, non_blocking=True) for t in (images, labels))

    def _is_save_due(self) -> bool:
        return self.step == self.schedule.total or self.step % self.settings.save_every == 0

    def _is_evaluation_due(self) -> bool:
        if self.eval_set is None:
            return False
        total = self.schedule.total
        return self.step == total or self.step % (self.settings.eval_every or total) == 0

    def _catch_up(self, log: RunLog | None, progress: Progress) -> Metrics | None:
        """Makes the evaluation that a run was killed in, and that of a finished run anew."""
        if not self.step or not self._is_evaluation_due():
            return None
        is_logged = self.group.max(int(is_evaluated(self.folder, self.step)))
        if is_logged and self.step < self.schedule.total:
            return None
        return self._evaluate(None if is_logged else log, progress)

    def _evaluate(self, log: RunLog | None, progress: Progress) -> Metrics:
        bar = progress.evaluation(-(-len(self.eval_set) // self.group.world_size))
        share = self.settings.batch_size // self.group.world_size
        with self.learner.autocast():
            metrics = evaluate(
                self.learner.model,
                self.eval_set,
                self.group,
                batch_size=share // self.settings.batch_split,
                workers=self.settings.workers,
                advance=bar.advance,
            )
        bar.remove()
        if log is not None:
            log.write(self.step, **{f"eval_{name}": v for name, v in asdict(metrics).items()})
        return metrics


def _check_batches(settings: FineTuneSettings, alpha: float, world_size: int) -> None:
    unit = 2 * world_size if alpha else world_size
    if settings.batch_size % unit:
        mixing = " and each process's share even, for mixup," if alpha else ""
        raise ValueError(
            f"the batch size is a multiple of the number of processes{mixing} that is, of {unit}; "
            f"got {settings.batch_size}"
        )
    share = settings.batch_size // world_size
    if settings.batch_split > share:
        raise ValueError(
            f"batch_split is at most the batch of one process, {share}, got {settings.batch_split}"
        )
