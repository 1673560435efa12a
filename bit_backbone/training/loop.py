"""The one training loop: any task, on one process or several, resumable to the step."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import nn
from torch.utils.data import DataLoader, Sampler

from bit_backbone.training.parallel import average_statistics, distribute
from bit_backbone.training.precision import DTYPES, autocast
from bit_backbone.training.progress import Progress
from bit_backbone.training.progress import Task as Bar
from bit_backbone.training.runlog import RunLog, is_evaluated
from bit_backbone.training.saving import RunStore
from bit_backbone.training.settings import RunSettings
from bit_backbone.training.state import RunState
from bit_backbone.training.stream import Key, SeededDataset
from bit_backbone.utils.processes import Interruption, ProcessGroup, process_group
from bit_backbone.utils.workers import serve_parent

Settings = TypeVar("Settings", bound=RunSettings)
Metrics = TypeVar("Metrics")


@dataclass(frozen=True)
class TrainingResult(Generic[Metrics]):
    """How a run ended.

    Attributes:
        model: The model as it then was; with FSDP it is of use in a process group only, and the
            run's ``last.pt`` holds its weights.
        step: Number of steps done.
        metrics: Of the evaluation at the end; None without an evaluation set, or before the end.
        signal: Number of the signal that came, or 0; at the end, during the last evaluation.
    """

    model: nn.Module
    step: int
    metrics: Metrics | None
    signal: int


class Task(ABC, Generic[Settings, Metrics]):
    """What a run trains: the loop asks, a task answers.

    Attributes:
        title: Of the progress bar.
        collate: Makes a batch out of a list of examples; None for torch's own way.
        model: What is trained; it, ``network`` and ``optimizer`` are there after ``begin``.
        network: What to call forward on in a step: the model, distributed over the processes.
        optimizer: Of the parameters that train.

    Args:
        train_set: A map-style data set.
        eval_set: What ``evaluate`` evaluates on; None for no evaluation.
        settings: Of the run.
        group: The processes.
        steps: Length of the run.
        learning_rate: Of a step.
    """

    title = "training"
    collate: Callable[[list[Any]], Any] | None = None
    model: nn.Module
    network: nn.Module
    optimizer: torch.optim.Optimizer

    def __init__(
        self,
        train_set: Any,
        eval_set: Any,
        settings: Settings,
        group: ProcessGroup,
        steps: int,
        learning_rate: Callable[[int], float],
    ) -> None:
        self.train_set, self.eval_set, self.settings = train_set, eval_set, settings
        self.group, self.steps, self.learning_rate = group, steps, learning_rate

    @abstractmethod
    def recipe(self, saved: RunState | None, folder: Path) -> dict[str, Any]:
        """Returns what a resumed run must share with the run that it resumes, in JSON's terms."""

    @abstractmethod
    def build(self, saved: RunState | None, folder: Path) -> nn.Module:
        """Returns the model to train; the weights of a saved state follow."""

    @abstractmethod
    def make_optimizer(self, trained: list[nn.Parameter]) -> torch.optim.Optimizer:
        """Returns the optimizer of the parameters that train."""

    @abstractmethod
    def plan(self, steps: range) -> Sampler[list[Key]]:
        """Returns which examples make up this process's share of the batches of some steps."""

    @abstractmethod
    def step(self, batch: Any, step: int) -> dict[str, float]:
        """Makes an optimizer step on this process's share of a batch.

        Returns:
            What to log, means over the processes; "loss" among it.

        Raises:
            ValueError: The loss is not finite.
        """

    @abstractmethod
    def evaluate(self, advance: Callable[[int], None]) -> Metrics:
        """Evaluates on ``eval_set``; calls ``advance`` with the number of examples now and then."""

    def values(self, metrics: Metrics) -> dict[str, float]:
        """Returns metrics by their names, for the log."""
        return dict(metrics)  # type: ignore[call-overload]

    def headline(self, metrics: Metrics) -> dict[str, float]:
        """Returns the metrics that a line about an evaluation shows."""
        return dict(islice(self.values(metrics).items(), 3))

    def remember(self) -> dict[str, Any]:
        """Returns what a state holds beside weights and optimizer, in JSON's terms."""
        return {}

    def recall(self, remembered: dict[str, Any]) -> None:
        """Takes what ``remember`` gave, after the weights."""

    def begin(self, model: nn.Module) -> None:
        """Takes the model, moves it to the device, and makes ``network`` and ``optimizer``."""
        self.model = model.to(self.group.device)
        dtype = DTYPES[self.settings.precision]
        self.network = distribute(model, self.group, fsdp=self.settings.fsdp, dtype=dtype)
        self.optimizer = self.make_optimizer([p for p in model.parameters() if p.requires_grad])

    def autocast(self) -> AbstractContextManager[Any]:
        """Returns the context of forward passes in the run's precision."""
        return autocast(self.group.device, self.settings.precision)

    def batches(self, steps: range) -> Iterator[Any]:
        """Yields this process's share of the batch of each step."""
        yield from DataLoader(
            SeededDataset(self.train_set, self.settings.seed),
            batch_sampler=self.plan(steps),
            num_workers=self.settings.workers,
            collate_fn=self.collate,
            pin_memory=self.group.device.type == "cuda",
            worker_init_fn=serve_parent,
        )

    def train_step(self, batch: Any, step: int) -> dict[str, float]:
        """Makes a step at its learning rate, and returns what to log."""
        self.model.train()
        rate = self.learning_rate(step)
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = rate
        return {"learning_rate": rate, **self.step(batch, step)}


def run_task(
    make: Callable[[ProcessGroup], Task[Any, Metrics]],
    folder: str | os.PathLike[str],
    settings: RunSettings,
    device: torch.device | str | None,
    show_progress: bool,
) -> TrainingResult[Metrics]:
    """Trains a task to its end, or until a signal comes, which saves first.

    Resumes the run that ``folder`` holds, if it holds one.

    Args:
        make: Makes the task of a process.
        folder: Of the run.
        settings: Of the task.
        device: Where to compute; None for this process's GPU, or the CPU where there is none.
        show_progress: Whether to show a progress bar.

    Raises:
        ValueError: The task does not fit the processes, a loss is not finite, or the folder is in
            use or holds another run.
    """
    with (
        process_group(device) as group,
        Interruption() as interruption,
        RunStore(Path(folder), group, settings.fsdp) as store,
    ):
        run = _Run(make(group), store, interruption)
        with Progress(show_progress and group.is_first) as progress:
            return run.until_done(progress)


class _Run(Generic[Metrics]):
    """One process's part of a run."""

    def __init__(
        self, task: Task[Any, Metrics], store: RunStore, interruption: Interruption
    ) -> None:
        self.task, self.store, self.interruption = task, store, interruption
        saved = store.open()
        self.recipe = task.recipe(saved, store.folder)
        if saved is not None:
            with task.group.together():
                saved.check_recipe(self.recipe, store.folder)
        self.step = 0 if saved is None else saved.step
        task.begin(task.build(saved, store.folder))
        if saved is not None:
            store.restore(saved, task.model, task.optimizer)
            task.recall(saved.extra)

    def until_done(self, progress: Progress) -> TrainingResult[Metrics]:
        """Trains to the last step, or until a signal comes."""
        log = RunLog(self.store.folder, self.step) if self.task.group.is_first else None
        try:
            return self._train(log, progress)
        finally:
            if log is not None:
                log.close()

    def _train(self, log: RunLog | None, progress: Progress) -> TrainingResult[Metrics]:
        task = self.task
        if self.step == task.steps:  # a kill may have come before
            self.store.finish(self._state(), task.model)
        metrics = self._catch_up(log, progress)
        bar = progress.training(task.title, task.steps, self.step)
        for batch in task.batches(range(self.step, task.steps)):
            self._step(batch, log, bar)
            number = self._signal()
            if number or self._is_evaluation_due() or self._is_due(task.settings.save_every):
                self._save()
            if number:
                return TrainingResult(task.model, self.step, None, number)
            if self._is_evaluation_due():
                metrics = self._evaluate(log, progress)
        return TrainingResult(task.model, self.step, metrics, self._signal())

    def _step(self, batch: Any, log: RunLog | None, bar: Bar) -> None:
        values = self.task.train_step(batch, self.step)
        if log is not None:
            log.write(self.step, **values)
        self.step += 1
        bar.advance(1, loss=values["loss"])

    def _signal(self) -> int:
        return self.task.group.max(self.interruption.signal)

    def _is_due(self, every: int | None) -> bool:
        return self.step == self.task.steps or (every is not None and self.step % every == 0)

    def _is_evaluation_due(self) -> bool:
        return self.task.eval_set is not None and self._is_due(self.task.settings.eval_every)

    def _state(self) -> RunState:
        return RunState(self.step, self.recipe, extra=self.task.remember())

    def _save(self) -> None:
        average_statistics(self.task.model, self.task.group)
        self.store.save(self._state(), self.task.model, self.task.optimizer)
        if self.step == self.task.steps:
            self.store.finish(self._state(), self.task.model)

    def _catch_up(self, log: RunLog | None, progress: Progress) -> Metrics | None:
        """Makes the evaluation that a run was killed in, and again that of a finished run."""
        if not self.step or not self._is_evaluation_due():
            return None
        is_logged = self.task.group.max(int(is_evaluated(self.store.folder, self.step)))
        if is_logged and self.step < self.task.steps:
            return None
        return self._evaluate(None if is_logged else log, progress)

    def _evaluate(self, log: RunLog | None, progress: Progress) -> Metrics:
        task = self.task
        average_statistics(task.model, task.group)
        bar = progress.evaluation(-(-len(task.eval_set) // task.group.world_size))
        with task.autocast():
            metrics = task.evaluate(bar.advance)
        bar.remove()
        if log is not None:
            log.write(self.step, **{f"eval_{name}": v for name, v in task.values(metrics).items()})
        progress.report(f"step {self.step} of {task.steps}", **task.headline(metrics))
        return metrics
