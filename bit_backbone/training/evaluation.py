"""The examples that each process evaluates on."""

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
    """Yields the batches of this process's share of a data set, a model being in eval mode.

    It is in its old mode afterwards.

    Args:
        model: What is evaluated.
        dataset: A map-style data set of images and targets.
        group: The processes.
        batch_size: Examples of a batch.
        workers: Loader processes.
        collate: Makes a batch; None for torch's own way.
        advance: Called with the length of each batch, to show progress.
        failed: Receives, at the end, the images that any process cannot read, by their place in the
            data set; None raises for one.

    Yields:
        Which examples of a batch count (others fill it up, or stand for an image that cannot be
        read), its images, and its targets.
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
        # Another index was drawn in the place of what cannot be read.
        yield [p == i for p, i in zip(own, indices, strict=True)], batch
