"""Training a detector or segmenter on a folder in COCO's format, resumable to the step."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from bit_backbone.detection.batches import AspectRatioBatches, collate
from bit_backbone.detection.learner import Learner
from bit_backbone.detection.models import DetectorSpec
from bit_backbone.detection.runs import load_spec, save_spec
from bit_backbone.detection.settings import DetectionSettings
from bit_backbone.detection.tasks import TrainingSet, evaluate_on
from bit_backbone.training.parallel import average_statistics
from bit_backbone.training.progress import Progress, Task
from bit_backbone.training.runlog import RunLog, is_evaluated
from bit_backbone.training.saving import Facts, RunStore
from bit_backbone.training.stream import SeededDataset
from bit_backbone.utils.processes import Interruption, process_group
from bit_backbone.utils.workers import serve_parent


@dataclass(frozen=True)
class TrainingResult:
    """How a run ended.

    Attributes:
        model: The model as it then was; with FSDP it is of use in a process group alone, and
            ``load_detector`` reads the run.
        step: Number of steps done.
        metrics: As ``evaluate_on`` returns them; None without an evaluation set, or before the end.
        signal: Number of the signal that came, or 0; at the end, during the last evaluation.
    """

    model: nn.Module
    step: int
    metrics: dict[str, float] | None
    signal: int


def train(
    spec: DetectorSpec,
    train_set: TrainingSet,
    folder: str | os.PathLike[str],
    settings: DetectionSettings,
    *,
    eval_set: TrainingSet | None = None,
    device: torch.device | str | None = "cpu",
    show_progress: bool = True,
) -> TrainingResult:
    """Trains a detector or segmenter.

    Goes on with the run that ``folder`` holds, if it holds one, and then ends with the very
    weights of a run without interruption (on one kind of machine, where the kernels used are
    deterministic: the CPU's are). Ctrl-C and SIGTERM save and end the run after the current step.
    Under torchrun every process calls this alike; each computes its share of every batch.

    Args:
        spec: The model.
        train_set: Images and objects, with the augmentation in its ``transforms``.
        folder: Of the run; receives ``detector.json``, ``last.pt``, ``log.jsonl`` and, where
            tensorboard is installed, its event files.
        settings: The recipe.
        eval_set: Evaluated when the settings say so, and at the end; None for none.
        device: Where to compute; None for this process's GPU, or the CPU where there is none.
        show_progress: Whether to show a progress bar.

    Raises:
        ValueError: The sets do not have the model's categories, a loss is not finite, the batch
            size is no multiple of the number of processes, or the folder holds a run of another
            recipe.
        MissingExtraError: There is an evaluation set, and nothing that computes COCO's metrics.
    """
    for dataset in (train_set, *([] if eval_set is None else [eval_set])):
        check_categories(spec, dataset)
    with (
        process_group(device) as group,
        Interruption() as interruption,
        RunStore(Path(folder), group, settings.fsdp) as store,
    ):
        run = _Run(spec, train_set, eval_set, store, settings)
        with Progress(show_progress and group.is_first) as progress:
            return run.until_done(interruption, progress)


class _Run:
    """One process's part of a run."""

    def __init__(
        self,
        spec: DetectorSpec,
        train_set: TrainingSet,
        eval_set: TrainingSet | None,
        store: RunStore,
        settings: DetectionSettings,
    ) -> None:
        self.train_set, self.eval_set = train_set, eval_set
        self.store, self.settings = store, settings
        self.folder, self.group = store.folder, store.group
        self.recipe = settings.recipe() | {"detector": spec.to_dict(), "images": len(train_set)}
        self.plan = AspectRatioBatches(
            train_set.aspect_ratios(), settings.batch_size, settings.seed, range(0), self.group
        )
        saved = self.store.open()
        if saved is not None:
            self.store.check_recipe(saved, self.recipe)
        self.step = 0 if saved is None else saved.step
        self.learner = Learner(self._model(spec, saved), settings, self.group)
        if saved is not None:
            self.store.restore(self.learner.model, self.learner.optimizer)

    def _model(self, spec: DetectorSpec, saved: Facts | None) -> nn.Module:
        if saved is None:
            torch.manual_seed(self.settings.seed)
            model = spec.build()
            if self.group.is_first:
                save_spec(self.folder, spec)
        else:
            model = load_spec(self.folder).build(pretrained=False)
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(name in saved.extra["trained"])
        self.trained = [name for name, p in model.named_parameters() if p.requires_grad]
        return model

    def _facts(self) -> Facts:
        return Facts(self.step, self.recipe, {"trained": self.trained})

    def until_done(self, interruption: Interruption, progress: Progress) -> TrainingResult:
        """Trains to the end of the schedule, or until a signal comes."""
        self.began = time.monotonic(), self.step
        log = RunLog(self.folder, self.step) if self.group.is_first else None
        try:
            metrics = self._catch_up(log, progress)
            bar = progress.training("training", self.settings.steps, self.step)
            for batch in self._batches():
                self._step(batch, log, bar)
                number = self.group.max(interruption.signal)
                ends = number or self.step == self.settings.steps
                if ends or self.step % self.settings.save_every == 0:
                    average_statistics(self.learner.model, self.group)
                    self.store.save(self._facts(), self.learner.model, self.learner.optimizer)
                if number:
                    return TrainingResult(self.learner.model, self.step, None, number)
                if self._is_evaluation_due():
                    metrics = self._evaluate(log, progress)
            self.store.finish(self._facts(), self.learner.model)
            number = self.group.max(interruption.signal)
            return TrainingResult(self.learner.model, self.step, metrics, number)
        finally:
            if log is not None:
                log.close()

    def _step(self, batch: tuple[list[Any], list[Any]], log: RunLog | None, bar: Task) -> None:
        rate = self.settings.learning_rate(self.step)
        values = self.learner.train_step(*batch, self.step)
        if log is not None:
            log.write(self.step, learning_rate=rate, **values)
        self.step += 1
        began, first = self.began
        speed = (self.step - first) * self.settings.batch_size / (time.monotonic() - began)
        bar.advance(1, **{"loss": values["loss"], "images/s": speed})

    def _batches(self) -> Iterator[tuple[list[Any], list[Any]]]:
        self.plan.steps = range(self.step, self.settings.steps)
        yield from DataLoader(
            SeededDataset(self.train_set, self.settings.seed),
            batch_sampler=self.plan,
            num_workers=self.settings.workers,
            collate_fn=collate,
            pin_memory=self.group.device.type == "cuda",
            worker_init_fn=serve_parent,
        )

    def _is_evaluation_due(self) -> bool:
        total = self.settings.steps
        return self.step == total or self.step % (self.settings.eval_every or total) == 0

    def _catch_up(self, log: RunLog | None, progress: Progress) -> dict[str, float] | None:
        """Makes the evaluation that a run was killed in, and that of a finished run anew."""
        if not self.step or not self._is_evaluation_due():
            return None
        is_logged = self.group.max(int(is_evaluated(self.folder, self.step)))
        if is_logged and self.step < self.settings.steps:
            return None
        return self._evaluate(None if is_logged else log, progress)

    def _evaluate(self, log: RunLog | None, progress: Progress) -> dict[str, float] | None:
        if self.eval_set is None:
            return None
        average_statistics(self.learner.model, self.group)
        bar = progress.evaluation(-(-len(self.eval_set) // self.group.world_size))
        with self.learner.autocast():
            metrics = evaluate_on(
                self.eval_set,
                self.learner.model,
                workers=self.settings.workers,
                group=self.group,
                advance=bar.advance,
            )
        bar.remove()
        if log is not None:
            log.write(self.step, **{f"eval_{name}": value for name, value in metrics.items()})
        return metrics


def check_categories(spec: DetectorSpec, dataset: TrainingSet) -> None:
    """Refuses a data set of other classes or keypoints than a model is for.

    Raises:
        ValueError: They differ.
    """
    for what in ("categories", "keypoint_names"):
        own, its = getattr(spec, what), getattr(dataset, what)
        if own != its:
            raise ValueError(
                f"{dataset.file} should have the {what} that the model is for, {list(own)}; got "
                f"{list(its)}"
            )
