"""Training a detector or segmenter, resumable at any step."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bit_backbone.datasets.coco.problems import UPRIGHT
from bit_backbone.detection.batches import AspectRatioBatches, collate
from bit_backbone.detection.models import DetectorSpec
from bit_backbone.detection.runs import load_spec, save_results, save_spec
from bit_backbone.detection.settings import DetectionSettings
from bit_backbone.detection.tasks import TrainingSet, check_objects, evaluate_on, warn_of_no_objects
from bit_backbone.preprocessing.deep import AUTO
from bit_backbone.training.loop import Task, TrainingResult, run_task
from bit_backbone.training.state import RunState
from bit_backbone.training.stream import PROPOSALS, forked
from bit_backbone.utils.processes import ProcessGroup
from bit_backbone.utils.unreadable import Unreadable


def train(
    spec: DetectorSpec,
    train_set: TrainingSet,
    folder: str | os.PathLike[str],
    settings: DetectionSettings,
    *,
    eval_set: TrainingSet | None = None,
    device: torch.device | str | None = "cpu",
    show_progress: bool = True,
) -> TrainingResult[dict[str, float]]:
    """Trains a detector or segmenter.

    Resumes the run in ``folder``, if there is one. A resumed run ends with the same weights as a
    run without interruption, on the same kind of machine and with deterministic kernels, such as
    the CPU's. Ctrl-C and SIGTERM save and end the run after the current step. Under torchrun every
    process makes the same call, and each computes its share of every batch.

    Args:
        spec: The model.
        train_set: Images and objects; its ``transforms`` do the augmentation.
        folder: Folder of the run. Receives ``detector.json``, ``last.pt``, ``log.jsonl``, a
            detector's results on the evaluation set (``detections.json``), faults of the data
            (``problems.jsonl``) and, if tensorboard is installed, its event files.
        settings: Of the run.
        eval_set: Evaluated as often as the settings say, and at the end; None for no evaluation.
        device: Where to compute; None for this process's GPU, or the CPU if there is none.
        show_progress: Whether to show a progress bar.

    Returns:
        The end of the run, with metrics as ``evaluate_on`` returns them.

    Raises:
        ValueError: The sets do not have the model's categories, the training set has no object,
            a loss is not finite, the batch size is not a multiple of the number of processes, or
            the folder contains a run with other settings.
        MissingExtraError: There is an evaluation set, but no package that computes COCO's metrics.
    """
    for dataset in (train_set, *([] if eval_set is None else [eval_set])):
        check_categories(spec, dataset)
    check_objects(train_set)
    if eval_set is not None:
        warn_of_no_objects(eval_set)
    make = partial(DetectionTask, spec, train_set, eval_set, settings)
    return run_task(make, folder, settings, device, show_progress)


class DetectionTask(Task[DetectionSettings, dict[str, float]]):
    """Learning to detect or segment, with the arguments of ``train``."""

    collate = staticmethod(collate)

    def __init__(
        self,
        spec: DetectorSpec,
        train_set: TrainingSet,
        eval_set: TrainingSet | None,
        settings: DetectionSettings,
        group: ProcessGroup,
    ) -> None:
        schedule = settings.steps, settings.learning_rate
        super().__init__(train_set, eval_set, settings, group, *schedule)
        self.spec = spec
        self.plan(range(0))  # which checks the size of the batches

    def run_settings(self, saved: RunState | None, folder: Path) -> dict[str, Any]:
        """Returns settings, model and the size of the training set."""
        data = {"detector": self.spec.to_dict(), "images": len(self.train_set)}
        if self.train_set.bit_depth != AUTO:  # which runs of earlier versions do not record
            data["bit_depth"] = self.train_set.bit_depth
        if self.train_set.exif != UPRIGHT:
            data["exif"] = self.train_set.exif
        return self.settings.to_record() | data

    def build(self, saved: RunState | None, folder: Path) -> nn.Module:
        """Builds the model; a resumed run needs nothing but its folder, and trains what it did."""
        self.folder = folder
        if saved is None:
            torch.manual_seed(self.settings.seed)
            model = self.spec.build()
            if self.group.is_first:
                save_spec(folder, self.spec)
            return model
        model = load_spec(folder).build(pretrained=False)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in saved.extra["trained"])
        return model

    def remember(self) -> dict[str, Any]:
        """Returns the names of the parameters that train."""
        named = self.model.named_parameters()
        return {"trained": [name for name, parameter in named if parameter.requires_grad]}

    def begin(self, model: nn.Module) -> None:
        """Takes the model, and sets how it saves memory."""
        if self.settings.channels_last:
            # not the heads: torchvision's loss of keypoints takes views that need the other order
            model.get_submodule("backbone").to(memory_format=torch.channels_last)
        body: Any = model.get_submodule("backbone.body")
        body.set_grad_checkpointing(self.settings.grad_checkpointing)
        body.set_activation_recompute(self.settings.activation_recompute)
        super().begin(model)

    def make_optimizer(self, trained: list[nn.Parameter]) -> torch.optim.Optimizer:
        """Returns SGD or AdamW; norms and biases, of one dimension, have no weight decay."""
        settings = self.settings
        groups = [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": settings.weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ]
        if settings.optimizer == "adamw":
            return torch.optim.AdamW(groups, settings.base_lr)
        return torch.optim.SGD(groups, settings.base_lr, settings.momentum)

    def plan(self, steps: range) -> AspectRatioBatches:
        """Returns batches of images of one orientation."""
        ratios = self.train_set.aspect_ratios()
        settings = self.settings
        return AspectRatioBatches(ratios, settings.batch_size, settings.seed, steps, self.group)

    def step(self, batch: tuple[list[Tensor], list[dict[str, Any]]], step: int) -> dict[str, float]:
        """Makes an optimizer step.

        Args:
            batch: Images, float32 [3, H, W] in 0..1 each, and targets as the data set yields them:
                this process's share.
            step: Number of the step, which every random draw follows from.

        Returns:
            The parts of the loss, and "loss", their sum; means over the processes.

        Raises:
            ValueError: The loss is not finite.
        """
        loss, values = self._losses(*batch, step)
        if not math.isfinite(values["loss"]):
            raise ValueError(
                f"the loss of step {step} is not finite ({values}); start again in another folder, "
                "with a smaller base_lr, a longer warm-up or precision float32: this run resumes "
                "only with its own settings"
            )
        self.optimizer.zero_grad()
        loss.backward()
        if self.settings.clip_norm:
            trained = [p for p in self.model.parameters() if p.requires_grad]
            nn.utils.clip_grad_norm_(trained, self.settings.clip_norm)
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

    def evaluate(
        self, advance: Callable[[int], None], failed: list[Unreadable]
    ) -> dict[str, float]:
        """Returns COCO's average precision, or the mean IoU."""
        options: dict[str, Any] = {"workers": self.settings.workers, "group": self.group}
        found: list[dict[str, Any]] = []
        options |= {"advance": advance, "results": found, "failed": failed}
        metrics = evaluate_on(self.eval_set, self.model, **options)
        if self.group.is_first and found:
            save_results(self.folder, found)
        return metrics

    def problems(self) -> list[dict[str, Any]]:
        """Returns what was repaired in the annotations, or left out of them."""
        sets = {"train": self.train_set, "test": self.eval_set}
        return [
            {"set": name, **asdict(problem)}
            for name, dataset in sets.items()
            for problem in (() if dataset is None else dataset.problems)
        ]

    def headline(self, metrics: dict[str, float]) -> dict[str, float]:
        """Returns AP and AP50 of boxes, masks and keypoints; of a segmenter the means."""
        shown = {name: v for name, v in metrics.items() if name.endswith(("_AP", "_AP50"))}
        return shown or super().headline(metrics)


def check_categories(spec: DetectorSpec, dataset: TrainingSet) -> None:
    """Rejects a data set with other classes or keypoints than the model's.

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
