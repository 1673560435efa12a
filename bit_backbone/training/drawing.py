"""Draws examples and batches from data sets that may hold unreadable images."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch.utils.data import default_collate

from bit_backbone.utils.unreadable import Unreadable, UnreadableImageError

MOST_ATTEMPTS = 64  # to replace an unreadable image by a readable one


@dataclass(frozen=True)
class Drawn:
    """An example, and the unreadable ones that it replaces.

    Attributes:
        value: The item of the data set.
        index: Its index in the data set.
        failures: The images that could not be read.
    """

    value: Any
    index: int
    failures: tuple[Unreadable, ...] = ()


def draw(dataset: Any, indices: Iterable[int]) -> Drawn:
    """Returns the first example that can be read.

    Raises:
        UnreadableImageError: No example can be read.
    """
    failures: list[Unreadable] = []
    last = UnreadableImageError("there is no image")
    for index in indices:
        try:
            return Drawn(dataset[index], index, tuple(failures))
        except UnreadableImageError as error:
            failures.append(Unreadable.of(index, error))
            last = error
    if len(failures) < 2:
        raise last
    raise UnreadableImageError(f"{len(failures)} images in a row cannot be read: {last}", last.path)


class CollateDrawn:
    """Makes a batch of examples, and lists their indices and failures.

    Args:
        collate: Makes a batch of the data set's items; None for torch's default.
    """

    def __init__(self, collate: Callable[[list[Any]], Any] | None) -> None:
        self.collate = collate or default_collate

    def __call__(self, items: list[Drawn]) -> tuple[Any, list[int], tuple[Unreadable, ...]]:
        """Returns batch, indices and failures."""
        failures = tuple(failure for item in items for failure in item.failures)
        indices = [item.index for item in items]
        return self.collate([item.value for item in items]), indices, failures
