"""Loss and accuracy of a classifier on a data set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bit_backbone.training.evaluation import evaluated, ignore
from bit_backbone.utils.processes import ProcessGroup
from bit_backbone.utils.unreadable import Unreadable

TOP = 5


@dataclass(frozen=True)
class Metrics:
    """Results on a data set.

    Attributes:
        loss: Mean cross entropy.
        top1: Fraction of examples whose class has the highest score.
        top5: Fraction of examples whose class is among the five highest.
        num_examples: Size of the data set, without images that could not be read.
    """

    loss: float
    top1: float
    top5: float
    num_examples: int


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    dataset: Any,
    group: ProcessGroup,
    *,
    batch_size: int = 64,
    workers: int = 0,
    advance: Callable[[int], None] = ignore,
    failed: list[Unreadable] | None = None,
) -> Metrics:
    """Evaluates a classifier; every process takes an equal share and gets the same result.

    The model is evaluated in eval mode, and then returns to its earlier mode.

    Args:
        model: Maps images [N, C, H, W] to an output with ``logits`` [N, K], or to a tuple that
            starts with them.
        dataset: A map-style data set of (image [C, H, W], class).
        group: The processes.
        batch_size: Images of one forward pass.
        workers: Loader processes.
        advance: Called with the length of each batch of this process, to show progress.
        failed: A list to which unreadable images are added, which then do not count. With None they
            raise an error.

    Raises:
        ValueError: The data set is empty.
    """
    if not len(dataset):
        raise ValueError("an evaluation set needs at least one example, got none")
    sums = torch.zeros(3, dtype=torch.float64, device=group.device)
    options: dict[str, Any] = {"batch_size": batch_size, "workers": workers, "advance": advance}
    for counts, images, labels in evaluated(model, dataset, group, failed=failed, **options):
        output = model(images.to(group.device))
        logits = output[0] if isinstance(output, tuple) else output.logits
        kept = torch.tensor(counts)
        sums += _sums(logits[kept.to(logits.device)], labels[kept].to(group.device))
    count = len(dataset) - len(failed or ())
    loss, top1, top5 = (group.sum(sums) / count).tolist()
    return Metrics(loss, top1, top5, count)


def _sums(logits: Tensor, labels: Tensor) -> Tensor:
    """Loss, hits among the first, and hits among the first five."""
    logits = logits.float()
    loss = F.cross_entropy(logits, labels, reduction="sum")
    hits = logits.topk(min(TOP, logits.shape[1])).indices == labels[:, None]
    return torch.stack([loss, hits[:, 0].sum(), hits.sum()]).double()
