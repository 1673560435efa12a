"""Training a detector on a folder in COCO's format, resumable to the step."""

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

from bit_backbone.datasets.coco import CocoFolder
from bit_backbone.detection.batches import AspectRatioBatches, collate
from bit_backbone.detection.evaluation import evaluate
from bit_backbone.detection.learner import Learner
from bit_backbone.detection.models import DetectorSpec
from bit_backbone.detection.runs import load_spec, restore, save_spec
from bit_backbone.detection.settings import DetectionSettings
from bit_backbone.training.processes import Interruption
from bit_backbone.training.progress import Progress
from bit_backbone.training.runlog import RunLog
from bit_backbone.training.state import RunState
from bit_backbone.training.stream import SeededDataset


@dataclass(frozen=True)
class TrainingResult:
    """How a run ended.

    Attributes:
        model: The detector as it then was.
        step: Number of steps done.
        metrics: As ``evaluate`` returns them; None without an evaluation set, or before the end.
        signal: Number of the signal that ended the run early, or 0.
    """

    model: nn.Module
    step: int
    metrics: dict[str, float] | None
    signal: int


def train(
    spec: DetectorSpec,
    train_set: CocoFolder,
    folder: str | os.PathLike[str],
    settings: DetectionSettings,
    *,
    eval_set: CocoFolder | None = None,
    device: torch.device | str = "cpu",
    show_progress: bool = True,
) -> TrainingResult:
    """Trains a detector.

    Goes on with the run that ``folder`` holds, if it holds one, and then ends with the very
    weights of a run without interruption (on one kind of machine, where the kernels used are
    deterministic: the CPU's are). Ctrl-C and SIGTERM save and end the run after the current step.

    Args:
        spec: The detector.
        train_set: Images and objects, with the augmentation in its ``transforms``.
        folder: Of the run; receives ``detector.json``, ``last.pt``, ``log.jsonl`` and, where
            tensorboard is installed, its event files.
        settings: The recipe.
        eval_set: Evaluated when the settings say so, and at the end; None for none.
        device: Where to compute.
        show_progress: Whether to show a progress bar.

    Raises:
        ValueError: The sets do not have the detector's categories, a loss is not finite, or the
            folder holds a run of another recipe.
        MissingExtraError: There is an evaluation set, and nothing that computes COCO's metrics.
    """
    for dataset in (train_set, *([] if eval_set is None else [eval_set])):
        check_categories(spec, dataset)
    run = _Run(spec, train_set, eval_set, Path(folder), settings, torch.device(device))
    with Interruption() as interruption, Progress(show_progress) as progress:
        return run.until_done(interruption, progress)


class _Run:
    def __init__(
        self,
        spec: DetectorSpec,
        train_set: CocoFolder,
        eval_set: CocoFolder | None,
        folder: Path,
        settings: DetectionSettings,
        device: torch.device,
    ) -> None:
        self.train_set, self.eval_set = train_set, eval_set
        self.folder, self.settings, self.device = folder, settings, device
        self.recipe = settings.recipe() | {"detector": spec.to_dict(), "images": len(train_set)}
        self.step = 0
        state = RunState.load(folder)
        if state is None:
            torch.manual_seed(settings.seed)
            self.learner = Learner(spec.build(), settings, device)
            save_spec(folder, spec)
        else:
            state.check_recipe(self.recipe, folder)
            self._resume(load_spec(folder), state)

    def _resume(self, spec: DetectorSpec, state: RunState) -> None:
        model = spec.build(pretrained=False)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in state.extra["trained"])
        restore(model, state.model)
        self.learner = Learner(model, self.settings, self.device)
        self.learner.optimizer.load_state_dict(state.optimizer)
        self.step = state.step

    def _save(self) -> None:
        model, optimizer = self.learner.model, self.learner.optimizer
        trained = [name for name, p in model.named_parameters() if p.requires_grad]
        weights, moments = model.state_dict(), optimizer.state_dict()
        RunState(self.step, self.recipe, weights, moments, {"trained": trained}).save(self.folder)

    def until_done(self, interruption: Interruption, progress: Progress) -> TrainingResult:
        """Trains to the end of the schedule, or until a signal comes."""
        settings, total = self.settings, self.settings.steps
        metrics = self._evaluate(None, progress) if self.step == total else None
        log = RunLog(self.folder, self.step)
        bar = progress.training("training", total, self.step)
        began, first = time.monotonic(), self.step
        try:
            for images, targets in self._batches():
                values = self.learner.train_step(images, targets, self.step)
                log.write(self.step, learning_rate=settings.learning_rate(self.step), **values)
                self.step += 1
                speed = (self.step - first) * settings.batch_size / (time.monotonic() - began)
                bar.advance(1, **{"loss": values["loss"], "images/s": speed})
                ends = interruption.signal or self.step == total
                if ends or self.step % settings.save_every == 0:
                    self._save()
                if interruption.signal:
                    return TrainingResult(self.learner.model, self.step, None, interruption.signal)
                if self.step == total or self.step % (settings.eval_every or total) == 0:
                    metrics = self._evaluate(log, progress)
            return TrainingResult(self.learner.model, self.step, metrics, 0)
        finally:
            log.close()

    def _batches(self) -> Iterator[tuple[list[Any], list[Any]]]:
        settings = self.settings
        plan = AspectRatioBatches(
            self.train_set.aspect_ratios(),
            settings.batch_size,
            settings.seed,
            range(self.step, settings.steps),
        )
        yield from DataLoader(
            SeededDataset(self.train_set, settings.seed),
            batch_sampler=plan,
            num_workers=settings.workers,
            collate_fn=collate,
            pin_memory=self.device.type == "cuda",
        )

    def _evaluate(self, log: RunLog | None, progress: Progress) -> dict[str, float] | None:
        if self.eval_set is None:
            return None
        bar = progress.evaluation(len(self.eval_set))
        with self.learner.autocast():
            metrics = evaluate(
                self.learner.model,
                self.eval_set,
                workers=self.settings.workers,
                device=self.device,
                advance=bar.advance,
            )
        bar.remove()
        if log is not None:
            log.write(self.step, **{f"eval_{name}": value for name, value in metrics.items()})
        return metrics


def check_categories(spec: DetectorSpec, dataset: CocoFolder) -> None:
    """Refuses a data set of other classes or keypoints than a detector is for.

    Raises:
        ValueError: They differ.
    """
    for what in ("categories", "keypoint_names"):
        own, its = getattr(spec, what), getattr(dataset, what)
        if own != its:
            raise ValueError(
                f"{dataset.file} should have the {what} that the detector is for, {list(own)}; got "
                f"{list(its)}"
            )
