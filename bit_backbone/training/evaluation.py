"""The examples that each process evaluates on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.utils.data import DataLoader, Dataset

from bit_backbone.training.drawing import MOST_ATTEMPTS, CollateDrawn, Drawn, draw
from bit_backbone.utils.processes import ProcessGroup
from bit_backbone.utils.unreadable import Unreadable
from bit_backbone.utils.workers import serve_parent


def equal_share(count: int, rank: int, world_size: int) -> range:
    """Returns the positions of one process among ``count``, as many as every other process has.

    Forward passes that gather weights demand equally many; positions from ``count`` on are to be
    computed on anything, and not counted.
    """
    rounds = -(-count // world_size)
    return range(rank, rounds * world_size, world_size)


class _Share(Dataset[Drawn]):
    """A process's part of a data set; an unreadable example is replaced by the next."""

    def __init__(self, dataset: Any, positions: range, replaces: bool) -> None:
        self.dataset, self.positions = dataset, positions
        self.attempts = min(MOST_ATTEMPTS, len(dataset)) if replaces else 1

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, number: int) -> Drawn:
        first, count = self.positions[number], len(self.dataset)
        return draw(self.dataset, ((first + i) % count for i in range(self.attempts)))


def batches_of_share(
    dataset: Any,
    group: ProcessGroup,
    batch_size: int,
    workers: int,
    collate: Callable[[list[Any]], Any] | None = None,
    failed: list[Unreadable] | None = None,
) -> Iterator[tuple[list[int], Any]]:
    """Yields positions and batch of this process's share of a data set.

    Positions from the size of the data set on are not to be counted: they fill up the last batch,
    or stand for an image that cannot be read.

    Args:
        dataset: A map-style data set.
        group: The processes.
        batch_size: Examples of a batch.
        workers: Loader processes.
        collate: Makes a batch; None for torch's own way.
        failed: Receives the images of this process that cannot be read; None raises for one.
    """
    count = len(dataset)
    positions = equal_share(count, group.rank, group.world_size)
    loader: Any = DataLoader(
        _Share(dataset, positions, failed is not None),
        batch_size,
        num_workers=workers,
        collate_fn=CollateDrawn(collate),
        worker_init_fn=serve_parent,
    )
    for number, (batch, indices, failures) in enumerate(loader):
        own = positions[number * batch_size : (number + 1) * batch_size]
        if failed is not None:
            failed += failures
        yield [p if p % count == i else count for p, i in zip(own, indices, strict=True)], batch


def everyones(failed: list[Unreadable], group: ProcessGroup) -> list[Unreadable]:
    """Returns what all processes could not read, by its place in the data set, each once."""
    found = {failure.index: failure for own in group.gather(failed) for failure in own}
    return [found[index] for index in sorted(found)]


def ignore(count: int) -> None:
    """Shows no progress."""


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Puts a model into eval mode, and back into its old mode afterwards."""
    was_training = model.training
    model.eval()
    yield
    model.train(was_training)
