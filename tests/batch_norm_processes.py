"""Batch norms that train over processes, replicated and sharded; under torchrun."""

import copy
import sys
from pathlib import Path

import torch
from rectangles import VARIANT
from torch import nn

from bit_backbone.datasets import SemanticFolder
from bit_backbone.detection import DetectionSettings, DetectorSpec, train
from bit_backbone.training.parallel import average_statistics, distribute
from bit_backbone.training.state import RunState
from bit_backbone.utils.processes import ProcessGroup, process_group

SPEC = DetectorSpec("fcn_bit", ("block", "bar"), {"variant": VARIANT})


def statistics(model: nn.Module) -> dict[str, torch.Tensor]:
    found = {n: b.clone() for n, b in model.named_buffers() if n.endswith(("_mean", "_var"))}
    assert found
    return found


def batch(step: int, rank: int) -> tuple[list[torch.Tensor], list[dict[str, torch.Tensor]]]:
    generator = torch.Generator().manual_seed(10 * step + rank)
    images = [torch.rand(3, 32, 32, generator=generator) ** (rank + 1) for _ in range(2)]
    return images, [{"semantic": torch.ones(32, 32, dtype=torch.int64)} for _ in images]


@torch.no_grad()
def check_mean(group: ProcessGroup, fsdp: bool) -> None:
    """What processes gather is the mean of what models on their own gather of the same images."""
    torch.manual_seed(0)
    model = SPEC.build().train()
    alone = [copy.deepcopy(model) for _ in range(group.world_size)]
    network = distribute(model, group, fsdp=fsdp)
    for step in range(3):
        network(*batch(step, group.rank))
        for rank, other in enumerate(alone):
            other(*batch(step, rank))
        if step == 1:  # once in between, which changes nothing
            average_statistics(model, group)
    each = [statistics(other) for other in alone]
    expected = {name: sum(e[name] for e in each) / len(each) for name in each[0]}
    assert not any(expected[name].allclose(value) for name, value in each[0].items())
    average_statistics(model, group)
    torch.testing.assert_close(statistics(model), expected)


def check_run(group: ProcessGroup, coco: Path, folder: Path, fsdp: bool) -> None:
    """A run evaluates and saves the same statistics in every process."""
    data = SemanticFolder(coco)
    settings = DetectionSettings(steps=3, batch_size=4, warmup_steps=1, fsdp=fsdp)
    spec = DetectorSpec(SPEC.name, data.categories, SPEC.arguments)
    result = train(spec, data, folder, settings, eval_set=data, show_progress=False)
    first, *others = group.gather(statistics(result.model))
    for other in others:
        torch.testing.assert_close(other, first, rtol=0, atol=0)
    saved = RunState.load(folder).model
    torch.testing.assert_close({name: saved[name] for name in first}, first, rtol=0, atol=0)


def main(coco: str, out: str) -> None:
    with process_group("cpu") as group:
        for fsdp in (False, True):
            check_mean(group, fsdp)
            check_run(group, Path(coco), Path(out) / str(fsdp), fsdp)
    print("one mean")


if __name__ == "__main__":
    main(*sys.argv[1:])
