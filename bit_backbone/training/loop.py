"""The training loop of every task: on one process or several, resumable at any saved step."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

import torch
from torch import nn

from bit_backbone.training.parallel import average_statistics
from bit_backbone.training.problems import ProblemLog
from bit_backbone.training.progress import Progress
from bit_backbone.training.progress import Task as Bar
from bit_backbone.training.runlog import RunLog, is_evaluated
from bit_backbone.training.saving import RunStore
from bit_backbone.training.settings import RunSettings
from bit_backbone.training.state import RunState
from bit_backbone.training.task import Metrics, Task
from bit_backbone.utils.processes import Interruption, ProcessGroup, process_group
from bit_backbone.utils.unreadable import Unreadable


@dataclass(frozen=True)
class TrainingResult(Generic[Metrics]):
    """How a run ended.

    Attributes:
        model: The model at the end. With FSDP it works only in a process group; the run's
            ``last.pt`` holds its weights.
        step: Number of completed steps.
        metrics: Results of the final evaluation; None without an evaluation set or before the end.
        signal: Number of the signal that interrupted the run or its last evaluation, or 0.
        unreadable: Number of unreadable images; ``problems.jsonl`` lists them.
    """

    model: nn.Module
    step: int
    metrics: Metrics | None
    signal: int
    unreadable: int = 0


def run_task(
    make: Callable[[ProcessGroup], Task[Any, Metrics]],
    folder: str | os.PathLike[str],
    settings: RunSettings,
    device: torch.device | str | None,
    show_progress: bool,
) -> TrainingResult[Metrics]:
    """Trains a task to its end; a signal saves the run and ends it earlier.

    If ``folder`` holds a run, it is resumed.

    Args:
        make: Makes the task of a process.
        folder: The folder of the run.
        settings: The settings of the task.
        device: Where to compute; None for this process's GPU, or the CPU if there is none.
        show_progress: Whether to show a progress bar.

    Raises:
        ValueError: The batch size does not fit the number of processes, a loss is not finite, or
            the folder is in use or holds another run.
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
        self.settings = task.run_settings(saved, store.folder)
        if saved is not None:
            with task.group.together():
                saved.check_settings(self.settings, store.folder, task.settings.extend)
                _check_length(saved, task.steps, store.folder)
        self.step = 0 if saved is None else saved.step
        task.begin(task.build(saved, store.folder))
        if saved is not None:
            store.restore(saved, task.model, task.optimizer)
            task.recall(saved.extra)

    def until_done(self, progress: Progress) -> TrainingResult[Metrics]:
        """Trains to the last step, or until a signal comes."""
        log = RunLog(self.store.folder, self.step) if self.task.group.is_first else None
        share = self.task.settings.max_unreadable
        self.problems = ProblemLog(self.store.folder, self.task.group, share, progress.warn)
        try:
            self.problems.begin(self.task.problems())
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
            self.problems.note("train", task.failures, len(task.train_set))
            self._step(batch, log, bar)
            number = self._signal()
            if number or self._is_evaluation_due() or self._is_due(task.settings.save_every):
                self._save()
            if number:
                return self._result(None, number)
            if self._is_evaluation_due():
                metrics = self._evaluate(log, progress)
        return self._result(metrics, self._signal())

    def _result(self, metrics: Metrics | None, number: int) -> TrainingResult[Metrics]:
        unreadable = self.problems.unreadable
        return TrainingResult(self.task.model, self.step, metrics, number, unreadable)

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
        return RunState(self.step, self.settings, extra=self.task.remember())

    def _save(self) -> None:
        average_statistics(self.task.model, self.task.group)
        self.store.save(self._state(), self.task.model, self.task.optimizer)
        if self.step == self.task.steps:
            self.store.finish(self._state(), self.task.model)

    def _catch_up(self, log: RunLog | None, progress: Progress) -> Metrics | None:
        """Repeats an evaluation that was interrupted, or the last one of a finished run."""
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
        failed: list[Unreadable] = []
        with task.autocast():
            metrics = task.evaluate(bar.advance, failed)
        bar.remove()
        self.problems.note("test", failed if task.group.is_first else [], len(task.eval_set))
        if log is not None:
            log.write(self.step, **{f"eval_{name}": v for name, v in task.values(metrics).items()})
        progress.report(f"step {self.step} of {task.steps}", **task.headline(metrics))
        return metrics


def _check_length(saved: RunState, steps: int, folder: Path) -> None:
    if saved.step > steps:
        raise ValueError(
            f"an extended run must have more steps than it has already: {folder} has {saved.step}, "
            f"got {steps}"
        )
