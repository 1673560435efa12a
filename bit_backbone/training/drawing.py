"""Examples and batches out of data sets that hold unreadable images."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch.utils.data import default_collate

from bit_backbone.utils.unreadable import Unreadable, UnreadableImageError

MOST_ATTEMPTS = 64  # to find a readable image in the place of an unreadable one


@dataclass(frozen=True)
class Drawn:
    """An example, and the unreadable ones in whose place it stands.

    Attributes:
        value: What the data set yields.
        index: In the data set.
        failures: What could not be read.
    """

    value: Any
    index: int
    failures: tuple[Unreadable, ...] = ()


def draw(dataset: Any, indices: Iterable[int]) -> Drawn:
    """Returns the first example that can be read.

    Raises:
        UnreadableImageError: There is none.
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
    """Makes a batch of examples, beside the numbers and failures of these.

    Args:
        collate: Makes a batch of what the data set yields; None for torch's own way.
    """

    def __init__(self, collate: Callable[[list[Any]], Any] | None) -> None:
        self.collate = collate or default_collate

    def __call__(self, items: list[Drawn]) -> tuple[Any, list[int], tuple[Unreadable, ...]]:
        """Returns batch, indices and failures."""
        failures = tuple(failure for item in items for failure in item.failures)
        indices = [item.index for item in items]
        return self.collate([item.value for item in items]), indices, failures
