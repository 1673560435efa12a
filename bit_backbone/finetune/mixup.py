"""mixup (arXiv 1710.09412), such that it does not matter how a batch is split over devices."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F


def draw_weight(alpha: float, rng: np.random.Generator) -> float:
    """Draws the weight of the first image from Beta(alpha, alpha); alpha 0 gives 1, no mixing.

    Raises:
        ValueError: ``alpha`` is negative.
    """
    if alpha < 0:
        raise ValueError(f"mixup's alpha must be at least 0, got {alpha}")
    return float(rng.beta(alpha, alpha)) if alpha else 1.0


def mix_neighbours(values: torch.Tensor, weight: float) -> torch.Tensor:
    """Mixes each row of an even number [N, ...] with its neighbour: 0 with 1, 2 with 3, ...

    In a shuffled batch the neighbour is a random other example. The published code pairs by a
    random permutation of what is on one device, which depends on the number of devices and of
    splits; neighbours stay together whenever a batch is cut into parts of even length.

    Returns:
        ``weight * values + (1 - weight) * partners``, [N, ...].

    Raises:
        ValueError: N is odd.
    """
    if len(values) % 2:
        raise ValueError(
            f"mixup pairs examples, so a batch must have even length, got {len(values)}"
        )
    if weight == 1:
        return values
    pairs = values.reshape(-1, 2, *values.shape[1:])
    return torch.lerp(pairs.flip(1), pairs, weight).reshape(values.shape)


def mix_labels(labels: torch.Tensor, num_classes: int, weight: float) -> torch.Tensor:
    """Mixes class indices [N] like ``mix_neighbours`` their images; returns probabilities [N, K].

    Cross entropy with these equals the weighted sum of the cross entropies with both labels.
    """
    return mix_neighbours(F.one_hot(labels, num_classes).float(), weight)
