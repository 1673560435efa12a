"""Which examples make up each batch: a function of the seed and the step only.

Nothing about the order of data has to be saved to resume a run, and the number of processes or
loader workers does not change what a batch holds.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler, Subset

from bit_backbone.utils.processes import ProcessGroup
from bit_backbone.utils.workers import serve_parent

Key = tuple[int, int]

# What random numbers are for: each follows from the seed, this, and a position or step.
ORDER, AUGMENTATION, MIXUP, STOCHASTIC_DEPTH, PROPOSALS = range(5)


class ExampleStream:
    """An endless row of examples: one shuffled pass over the data set after another.

    Batches cut from it have equal lengths; they run across the ends of passes, and a batch that
    is longer than the data set holds examples several times.

    Args:
        num_examples: Size of the data set.
        seed: Chooses the order.

    Raises:
        ValueError: The data set is empty.
    """

    def __init__(self, num_examples: int, seed: int) -> None:
        if num_examples < 1:
            raise ValueError(f"a training set has at least one example, got {num_examples}")
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


class BatchPlan(Sampler[list[Key]]):
    """One process's share of the batches of some steps, as (position, index) of each example.

    Args:
        stream: The examples in order.
        batch_size: Of all processes together.
        steps: Which steps.
        rank: This process.
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
                "the batch size is a positive multiple of the number of processes, "
                f"got {batch_size} for {world_size}"
            )
        self.stream = stream
        self.batch_size = batch_size
        self.steps = steps
        self.local_size = batch_size // world_size
        self.rank = rank

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[Key]]:
        for step in self.steps:
            start = step * self.batch_size + self.rank * self.local_size
            positions = range(start, start + self.local_size)
            yield [(position, self.stream.index(position)) for position in positions]


def equal_share(count: int, rank: int, world_size: int) -> range:
    """Returns the positions of one process among ``count``, as many as every other process has.

    Forward passes that gather weights demand equally many; positions from ``count`` on are to be
    computed on anything, and not counted.
    """
    rounds = -(-count // world_size)
    return range(rank, rounds * world_size, world_size)


def batches_of_share(
    dataset: Any,
    group: ProcessGroup,
    batch_size: int,
    workers: int,
    collate: Callable[[list[Any]], Any] | None = None,
) -> Iterator[tuple[range, Any]]:
    """Yields positions and batch of this process's share of a data set.

    Positions from the size of the data set on are at the end, and not to be counted.
    """
    count = len(dataset)
    positions = equal_share(count, group.rank, group.world_size)
    share = Subset(dataset, [position % count for position in positions])
    loader: Any = DataLoader(
        share,
        batch_size,
        num_workers=workers,
        collate_fn=collate,
        worker_init_fn=serve_parent,
    )
    for number, batch in enumerate(loader):
        yield positions[number * batch_size : (number + 1) * batch_size], batch


def ignore(count: int) -> None:
    """Shows no progress."""


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Puts a model into eval mode, and back into its old mode afterwards."""
    was_training = model.training
    model.eval()
    yield
    model.train(was_training)


class SeededDataset(Dataset[Any]):
    """A data set whose random augmentation depends on an example's position in the stream alone.

    Args:
        dataset: A map-style data set.
        seed: Chooses the augmentation.
    """

    def __init__(self, dataset: Any, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Key) -> Any:
        position, index = key
        with seeded(self.seed, AUGMENTATION, position):
            return self.dataset[index]


@contextmanager
def forked(device: torch.device, *seeds: int) -> Iterator[None]:
    """Seeds torch's generators, the device's included; gives them back as they were."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(int(np.random.SeedSequence(seeds).generate_state(1)[0]))
        yield


@contextmanager
def seeded(*seeds: int) -> Iterator[None]:
    """Seeds the generators that augmentation draws from; gives them back as they were.

    These are torch's on the CPU, Python's and numpy's global ones.
    """
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()
    words = np.random.SeedSequence(seeds).generate_state(2)
    # not torch.manual_seed: that would reseed the accelerators too
    torch.default_generator.manual_seed(int(words[0]))
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        random.setstate(states[1])
        np.random.set_state(states[2])
