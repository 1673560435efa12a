"""Which images make up each batch: a function only of the seed and the step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from bit_backbone.training.stream import ORDER, Key, Plan
from bit_backbone.utils.processes import ONE_PROCESS, ProcessGroup


class AspectRatioBatches(Plan):
    """Batches of images that are all wide or all tall, so that little of a batch is padding.

    Every epoch shuffles each of the two groups, cuts it into batches and shuffles these. A group
    that the batch size does not divide is filled up with its own first images.

    Args:
        aspect_ratios: Width / height of each image.
        batch_size: Images of a batch, of all processes together.
        seed: Chooses the order.
        steps: Which batches, counted from the beginning of training.
        group: The processes; each gets an equal, contiguous part of a batch.

    Raises:
        ValueError: There is no image, or the number of processes does not divide a batch.
    """

    def __init__(
        self,
        aspect_ratios: Sequence[float],
        batch_size: int,
        seed: int,
        steps: range,
        group: ProcessGroup = ONE_PROCESS,
    ) -> None:
        if not len(aspect_ratios):
            raise ValueError("a training set needs at least one image, got none")
        if batch_size % group.world_size:
            raise ValueError(
                "the batch size, which counts all processes, must be a multiple of their number, "
                f"{group.world_size}; got {batch_size}"
            )
        share = batch_size // group.world_size
        self.share = slice(group.rank * share, (group.rank + 1) * share)
        tall = np.asarray(aspect_ratios) < 1
        self.groups = [g for g in (np.flatnonzero(tall), np.flatnonzero(~tall)) if len(g)]
        self.batch_size, self.seed, self.steps = batch_size, seed, steps
        self._epoch: tuple[int, np.ndarray] = (-1, np.empty(0))  # the latest, and its batches
        self.batches_per_epoch = sum(-(-len(group) // batch_size) for group in self.groups)

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[Key]]:
        for step in self.steps:
            start = step * self.batch_size
            keys = [(start + i, int(index)) for i, index in enumerate(self._batch(step))]
            yield keys[self.share]

    def index_at(self, position: int) -> int:
        """Returns which image stands at a position of the stream."""
        step, place = divmod(position, self.batch_size)
        return int(self._batch(step)[place])

    def _batch(self, step: int) -> np.ndarray:
        epoch, number = divmod(step, self.batches_per_epoch)
        if epoch != self._epoch[0]:
            self._epoch = epoch, self.epoch(epoch)
        return self._epoch[1][number]

    def epoch(self, epoch: int) -> np.ndarray:
        """Returns the indices of all batches of an epoch, [batches, batch_size]."""
        rng = np.random.default_rng([self.seed, ORDER, epoch])
        cut = []
        for group in self.groups:
            count = -(-len(group) // self.batch_size)
            order = np.resize(rng.permutation(group), count * self.batch_size)
            cut.append(order.reshape(count, self.batch_size))
        return rng.permutation(np.concatenate(cut))


def collate(items: list[tuple[Any, Any]]) -> tuple[list[Any], list[Any]]:
    """Returns a batch as torchvision's detectors take it: a list of images, a list of targets."""
    images, targets = zip(*items, strict=True)
    return list(images), list(targets)
