"""Divides the examples of an evaluation among the processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import nn
from torch.utils.data import DataLoader, Dataset

from bit_backbone.training.drawing import MOST_ATTEMPTS, CollateDrawn, Drawn, draw
from bit_backbone.utils.processes import ProcessGroup
from bit_backbone.utils.unreadable import Unreadable
from bit_backbone.utils.workers import serve_parent


def equal_share(count: int, rank: int, world_size: int) -> range:
    """Returns the positions of one process among ``count``; every process gets the same number.

    Forward passes that gather weights need equal numbers. At positions from ``count`` on, compute
    on any example, and do not count it.
    """
    rounds = -(-count // world_size)
    return range(rank, rounds * world_size, world_size)


class _Share(Dataset[Drawn]):
    """A process's share of a data set; the next example replaces an unreadable one."""

    def __init__(self, dataset: Any, positions: range, replaces: bool) -> None:
        self.dataset, self.positions = dataset, positions
        self.attempts = min(MOST_ATTEMPTS, len(dataset)) if replaces else 1

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, number: int) -> Drawn:
        first, count = self.positions[number], len(self.dataset)
        return draw(self.dataset, ((first + i) % count for i in range(self.attempts)))


def ignore(count: int) -> None:
    """Shows no progress."""


def evaluated(
    model: nn.Module,
    dataset: Any,
    group: ProcessGroup,
    *,
    batch_size: int,
    workers: int = 0,
    collate: Callable[[list[Any]], Any] | None = None,
    advance: Callable[[int], None] = ignore,
    failed: list[Unreadable] | None = None,
) -> Iterator[tuple[list[bool], Any, Any]]:
    """Yields the batches of this process's share of a data set, with the model in eval mode.

    The model returns to its former mode afterwards.

    Args:
        model: The model to evaluate.
        dataset: A map-style data set of images and targets.
        group: The processes.
        batch_size: Examples per batch.
        workers: Number of loader processes.
        collate: Makes a batch; None for torch's default.
        advance: Called with the length of each batch, to show progress.
        failed: Receives, at the end, the unreadable images of all processes, by index; None raises
            an error for the first one.

    Yields:
        Which examples of a batch count (the others only fill the batch, or replace an unreadable
        image), its images, and its targets.
    """
    own: list[Unreadable] | None = None if failed is None else []
    was_training = model.training
    model.eval()
    for counts, (images, targets) in _batches(dataset, group, batch_size, workers, collate, own):
        yield counts, images, targets
        advance(len(images))
    model.train(was_training)
    if failed is not None:
        found = {failure.index: failure for part in group.gather(own or []) for failure in part}
        failed[:] = [found[index] for index in sorted(found)]


def _batches(
    dataset: Any,
    group: ProcessGroup,
    batch_size: int,
    workers: int,
    collate: Callable[[list[Any]], Any] | None,
    failed: list[Unreadable] | None,
) -> Iterator[tuple[list[bool], Any]]:
    """Yields which examples of a batch count, and the batch; adds to ``failed``."""
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
        # An unreadable example was replaced by one with another index.
        yield [p == i for p, i in zip(own, indices, strict=True)], batch
