"""The most bytes of tensors that a training step has alive, measured by torch's profiler.

Usage, under torchrun: python measured_memory.py; prints the bytes of a sharded step.
"""

import os
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from bit_backbone import BitBackbone, BitConfig
from bit_backbone.training.memory import backbone_step

CONFIG = BitConfig(
    embedding_size=32, hidden_sizes=(64, 128, 256, 512), depths=(1, 2, 2, 1), num_groups=8,
    out_indices=[1, 2, 3, 4], feature_norm="preact",
)  # fmt: skip
SHAPE = (2, 3, 160, 128)


def peak_of(step: Callable[[], None]) -> int:
    """Return the most bytes that a call allocated beyond those there were before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    events = profiler.profiler.kineto_results.events()
    changes = [(e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"]
    now = peak = 0
    for _, change in sorted(changes):
        now += change
        peak = max(peak, now)
    return peak


def measured(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Callable[[], Tensor],
    *,
    amp: bool = False,
) -> int:
    """Return the peak of a step after the first, with weights and the optimizer's state."""

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=amp):
            value = loss()
        value.backward()
        optimizer.step()

    step()
    optimizer.zero_grad()
    kept = [*model.parameters()]
    kept += [v for state in optimizer.state.values() for v in state.values() if torch.is_tensor(v)]
    local = [tensor.to_local() if hasattr(tensor, "to_local") else tensor for tensor in kept]
    return sum(tensor.nbytes for tensor in local) + peak_of(step)


def main() -> None:
    from bit_backbone.training.parallel import process_mesh, shard
    from bit_backbone.utils.processes import process_group

    with process_group("cpu") as group:
        model = shard(BitBackbone(CONFIG).train(), process_mesh(group.device))
        optimizer = torch.optim.SGD(model.parameters(), 1e-3, 0.9)
        images = torch.zeros(SHAPE)
        peak = measured(model, optimizer, lambda: backbone_step(model, images)) + images.nbytes
        os.write(1, f"{peak}\n".encode())  # at once: the processes share the pipe


if __name__ == "__main__":
    main()
