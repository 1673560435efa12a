"""Selecting a few training examples of each class, the same ones for the same seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

MAX_LISTED = 10


def select_few_shot(
    labels: Sequence[int] | np.ndarray,
    examples_per_class: int,
    seed: int = 0,
    num_classes: int | None = None,
) -> list[int]:
    """Draws ``examples_per_class`` indices of each class, without replacement.

    With one seed, a smaller selection is part of every larger one. The selection in a class depends
    only on the number of its examples. Results for 1, 5 and 20 examples per class, or with and
    without a class, are therefore comparable.

    Args:
        labels: Class of each example, 0 .. ``num_classes - 1``.
        examples_per_class: Number of examples of each class.
        seed: Seed of the selection.
        num_classes: Number of classes; None for the largest label plus one.

    Returns:
        The indices in increasing order.

    Raises:
        ValueError: A class has too few examples (each is listed), a label is out of range, or
            ``examples_per_class`` is not positive.
    """
    if examples_per_class < 1:
        raise ValueError(f"examples_per_class must be at least 1, got {examples_per_class}")
    classes = _by_class(np.asarray(labels), num_classes)
    lacking = {c: len(own) for c, own in enumerate(classes) if len(own) < examples_per_class}
    if lacking:
        listed = ", ".join(f"{c} has {n}" for c, n in list(lacking.items())[:MAX_LISTED])
        more = f" and {len(lacking) - MAX_LISTED} more" if len(lacking) > MAX_LISTED else ""
        raise ValueError(
            f"every class needs {examples_per_class} examples, but class {listed}{more}; "
            "draw fewer per class or leave these classes out"
        )
    chosen = [
        own[np.random.default_rng([seed, c]).permutation(len(own))[:examples_per_class]]
        for c, own in enumerate(classes)
    ]
    return sorted(np.concatenate(chosen).tolist())


def _by_class(labels: np.ndarray, num_classes: int | None) -> list[np.ndarray]:
    """Indices of the examples of each class."""
    if labels.ndim != 1 or not len(labels) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"labels must be one integer per example, got {labels.dtype} of shape {labels.shape}"
        )
    count = int(labels.max()) + 1 if num_classes is None else num_classes
    if labels.min() < 0 or labels.max() >= count:
        raise ValueError(
            f"labels must lie in 0 .. {count - 1}, got {int(labels.min())} .. {int(labels.max())}"
        )
    return [np.flatnonzero(labels == c) for c in range(count)]


def dataset_labels(dataset: Any) -> list[int]:
    """Returns the label of each example of a map-style data set.

    Reads ``targets``, which torchvision's data sets have, through any nesting of
    ``torch.utils.data.Subset``; loads every example of a data set without it.
    """
    if isinstance(dataset, torch.utils.data.Subset):
        labels = dataset_labels(dataset.dataset)
        return [labels[i] for i in dataset.indices]
    targets = getattr(dataset, "targets", None)
    if targets is None:
        targets = (dataset[i][1] for i in range(len(dataset)))
    return [int(label) for label in targets]
