"""A training task, as the training loop calls it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import nn
from torch.utils.data import DataLoader

from bit_backbone.training.drawing import CollateDrawn
from bit_backbone.training.parallel import distribute
from bit_backbone.training.precision import DTYPES, autocast
from bit_backbone.training.settings import RunSettings
from bit_backbone.training.state import RunState
from bit_backbone.training.stream import Plan, SeededDataset
from bit_backbone.utils.processes import ProcessGroup
from bit_backbone.utils.unreadable import Unreadable
from bit_backbone.utils.workers import serve_parent

Settings = TypeVar("Settings", bound=RunSettings)
Metrics = TypeVar("Metrics")


class Task(ABC, Generic[Settings, Metrics]):
    """The part of a run that differs between tasks; the training loop calls its methods.

    Attributes:
        title: Title of the progress bar.
        collate: Makes a batch from a list of examples; None for torch's default.
        model: The model to train; ``begin`` sets it, ``network`` and ``optimizer``.
        network: The module to call forward on in a step: the model, distributed over the processes.
        optimizer: The optimizer of the trained parameters.
        failures: The unreadable images of this process's latest batch.

    Args:
        train_set: A map-style data set.
        eval_set: The data set of ``evaluate``; None for no evaluation.
        settings: The settings of the run.
        group: The processes.
        steps: Length of the run.
        learning_rate: Returns the learning rate of a step.
    """

    title = "training"
    collate: Callable[[list[Any]], Any] | None = None
    model: nn.Module
    network: nn.Module
    optimizer: torch.optim.Optimizer
    failures: tuple[Unreadable, ...] = ()

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
    def run_settings(self, saved: RunState | None, folder: Path) -> dict[str, Any]:
        """Returns the settings that a resumed run must share with the saved one, as JSON values."""

    @abstractmethod
    def build(self, saved: RunState | None, folder: Path) -> nn.Module:
        """Returns the model to train; a saved state's weights are loaded afterwards."""

    @abstractmethod
    def make_optimizer(self, trained: list[nn.Parameter]) -> torch.optim.Optimizer:
        """Returns the optimizer of the trained parameters."""

    @abstractmethod
    def plan(self, steps: range) -> Plan:
        """Returns the examples of this process's share of the batches of some steps."""

    @abstractmethod
    def step(self, batch: Any, step: int) -> dict[str, float]:
        """Makes an optimizer step on this process's share of a batch.

        Returns:
            Values to log, means over the processes; "loss" is one of them.

        Raises:
            ValueError: The loss is not finite.
        """

    @abstractmethod
    def evaluate(self, advance: Callable[[int], None], failed: list[Unreadable]) -> Metrics:
        """Evaluates on ``eval_set``.

        Args:
            advance: Called repeatedly with a number of evaluated examples.
            failed: Receives the unreadable images of all processes.
        """

    def problems(self) -> list[dict[str, Any]]:
        """Returns the problems of the data sets known before training, as JSON values."""
        return []

    def values(self, metrics: Metrics) -> dict[str, float]:
        """Returns metrics by name, for the log."""
        return dict(metrics)  # type: ignore[call-overload]

    def headline(self, metrics: Metrics) -> dict[str, float]:
        """Returns the metrics to show in the progress line of an evaluation."""
        return dict(islice(self.values(metrics).items(), 3))

    def remember(self) -> dict[str, Any]:
        """Returns what a state holds besides weights and optimizer, as JSON values."""
        return {}

    def recall(self, remembered: dict[str, Any]) -> None:
        """Restores what ``remember`` returned; called after the weights are loaded."""

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
        """Yields this process's share of the batch of each step, and sets ``failures``."""
        plan = self.plan(steps)
        loader: Any = DataLoader(
            SeededDataset(self.train_set, self.settings.seed, plan),
            batch_sampler=plan,
            num_workers=self.settings.workers,
            collate_fn=CollateDrawn(self.collate),
            pin_memory=self.group.device.type == "cuda",
            worker_init_fn=serve_parent,
        )
        for batch, _, self.failures in loader:
            yield batch

    def train_step(self, batch: Any, step: int) -> dict[str, float]:
        """Makes a step at its learning rate, and returns the values to log."""
        self.model.train()
        rate = self.learning_rate(step)
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = rate
        return {"learning_rate": rate, **self.step(batch, step)}
