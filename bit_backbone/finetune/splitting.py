"""Batch splitting: the gradient of a large batch from parts that fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch

LossFunction = Callable[..., torch.Tensor]


def backward_in_parts(
    loss_function: LossFunction,
    batch: Sequence[torch.Tensor],
    parts: int,
    *,
    backward: Callable[[torch.Tensor], None] = torch.Tensor.backward,
    no_sync: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> torch.Tensor:
    """Adds the gradient of the batch's mean loss to ``.grad``, one part after another.

    Equal to ``loss_function(*batch).backward()`` for a loss that is a mean over examples and a
    model without batch statistics, such as BiT; parts of unequal length are weighted. Only one
    part's activations are in memory at a time.

    Args:
        loss_function: Takes a part of each tensor of the batch; returns the part's mean loss.
        batch: Tensors [N, ...].
        parts: Number of parts; their lengths differ by at most one.
        backward: Called with each part's share of the loss, such as
            ``lambda loss: scaler.scale(loss).backward()``.
        no_sync: Makes the context of all parts but the last, such as ``DistributedDataParallel``'s
            ``no_sync``, which postpones the exchange of gradients.

    Returns:
        The mean loss of the batch, a detached scalar.

    Raises:
        ValueError: ``parts`` is not in 1 .. N.
    """
    lengths = part_lengths(len(batch[0]), parts)
    cut = zip(*(tensor.split(lengths) for tensor in batch), strict=True)
    total = torch.zeros((), device=batch[0].device, dtype=torch.float64)
    for i, (length, part) in enumerate(zip(lengths, cut, strict=True), 1):
        with nullcontext() if i == parts else no_sync():
            share = loss_function(*part) * (length / len(batch[0]))
            backward(share)
        total += share.detach()
    return total


def part_lengths(num_examples: int, parts: int) -> list[int]:
    """Returns the length of each part, the longer ones first.

    Raises:
        ValueError: ``parts`` is not in 1 .. ``num_examples``.
    """
    if not 1 <= parts <= num_examples:
        raise ValueError(f"a batch of {num_examples} splits into 1 to as many parts, got {parts}")
    return [num_examples // parts + (i < num_examples % parts) for i in range(parts)]
