"""Chooses the examples of each batch, as a function of only the seed and the step.

So a run resumes without a saved order of the data, and the number of processes or loader workers
does not change the content of a batch.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from bit_backbone.training.drawing import MOST_ATTEMPTS, Drawn, draw

Key = tuple[int, int]

# Purposes of random numbers: each draw depends on the seed, its purpose, and a position or step.
ORDER, AUGMENTATION, MIXUP, STOCHASTIC_DEPTH, PROPOSALS = range(5)


class ExampleStream:
    """An endless sequence of examples: one shuffled pass over the data set after another.

    Its batches have equal lengths and may cross the ends of passes. A batch longer than the data
    set holds examples several times.

    Args:
        num_examples: Size of the data set.
        seed: Chooses the order.

    Raises:
        ValueError: The data set is empty.
    """

    def __init__(self, num_examples: int, seed: int) -> None:
        if num_examples < 1:
            raise ValueError(f"a training set needs at least one example, got {num_examples}")
        self.num_examples = num_examples
        self.seed = seed
        self._epoch = -1
        self._order = np.empty(0, np.int64)

    def index(self, position: int) -> int:
        """Returns which example stands at a position, 0, 1, 2, ..."""
        epoch, offset = divmod(position, self.num_examples)
        if epoch != self._epoch:
            rng = np.random.default_rng([self.seed, ORDER, epoch])
            self._epoch, self._order = epoch, rng.permutation(self.num_examples)
        return int(self._order[offset])


class Plan(Sampler[list[Key]], ABC):
    """The examples that make up the batches of some steps."""

    @abstractmethod
    def index_at(self, position: int) -> int:
        """Returns which example stands at a position of the stream."""

    def following(self, key: Key) -> Iterator[int]:
        """Yields an example, and then the next ones of the plan as its replacements."""
        position, index = key
        yield index
        for step in range(1, MOST_ATTEMPTS):
            yield self.index_at(position + step)


class BatchPlan(Plan):
    """One process's share of the batches of some steps, as (position, index) of each example.

    Args:
        stream: The examples in order.
        batch_size: Examples per batch, over all processes.
        steps: The steps.
        rank: Number of this process.
        world_size: Number of processes; each has an equal, contiguous part of a batch.

    Raises:
        ValueError: ``world_size`` does not divide ``batch_size``.
    """

    def __init__(
        self,
        stream: ExampleStream,
        batch_size: int,
        steps: range,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if batch_size < 1 or batch_size % world_size:
            raise ValueError(
                "the batch size must be a positive multiple of the number of processes, "
                f"got {batch_size} for {world_size}"
            )
        self.stream = stream
        self.batch_size = batch_size
        self.steps = steps
        self.local_size = batch_size // world_size
        self.rank = rank

    def __len__(self) -> int:
        return len(self.steps)

    def index_at(self, position: int) -> int:
        """Returns which example stands at a position of the stream."""
        return self.stream.index(position)

    def __iter__(self) -> Iterator[list[Key]]:
        for step in self.steps:
            start = step * self.batch_size + self.rank * self.local_size
            positions = range(start, start + self.local_size)
            yield [(position, self.stream.index(position)) for position in positions]


class SeededDataset(Dataset[Drawn]):
    """A data set whose random augmentation depends only on an example's position in the stream.

    The next example of the plan replaces an unreadable one.

    Args:
        dataset: A map-style data set.
        seed: Chooses the augmentation.
        plan: The plan of the batches.
    """

    def __init__(self, dataset: Any, seed: int, plan: Plan) -> None:
        self.dataset, self.seed, self.plan = dataset, seed, plan

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Key) -> Drawn:
        return draw(_At(self.dataset, self.seed, key[0]), self.plan.following(key))


class _At:
    """A data set at a position of the stream."""

    def __init__(self, dataset: Any, seed: int, position: int) -> None:
        self.dataset, self.seed, self.position = dataset, seed, position

    def __getitem__(self, index: int) -> Any:
        with seeded(self.seed, AUGMENTATION, self.position):
            return self.dataset[index]


@contextmanager
def forked(device: torch.device, *seeds: int) -> Iterator[None]:
    """Seeds torch's generators, the device's included; restores them at the end."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(int(np.random.SeedSequence(seeds).generate_state(1)[0]))
        yield


@contextmanager
def seeded(*seeds: int) -> Iterator[None]:
    """Seeds the generators of augmentation; restores them at the end.

    These are torch's on the CPU, and the global ones of Python and numpy.
    """
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()
    words = np.random.SeedSequence(seeds).generate_state(2)
    # Not torch.manual_seed, which would reseed the accelerators too.
    torch.default_generator.manual_seed(int(words[0]))
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        random.setstate(states[1])
        np.random.set_state(states[2])
