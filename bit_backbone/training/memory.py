"""Estimates the GPU memory of a training step without allocating it.

The real step (forward, backward, optimizer, sharding) runs on fake tensors, which have shapes but
no data, and the live bytes are counted. There is no formula, so checkpointing, mixed precision and
changes of the network are included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves

from bit_backbone.profiling.live_bytes import LiveBytes

__all__ = ["TrainingMemory", "TrainingOptions", "detector_step", "training_memory"]

Step = Callable[[nn.Module, Tensor], Tensor]

PROPOSALS = 512  # per image, in torchvision's Faster R-CNN
POOLED, SAMPLES = 7, 2
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda parameters, **options: torch.optim.SGD(
        parameters, lr=1e-3, momentum=0.9, weight_decay=1e-4, **options
    ),
    "adamw": lambda parameters, **options: torch.optim.AdamW(parameters, lr=1e-3, **options),
}


@dataclass(frozen=True)
class TrainingOptions:
    """How a training step is computed.

    Attributes:
        amp: Whether forward passes run under bfloat16 autocast.
        grad_checkpointing: Whether backward recomputes residual units.
        activation_recompute: Whether backward recomputes only norms and activations.
        optimizer: "sgd" (with momentum) or "adamw".
        processes: Number of processes over which FSDP2 shards the model; 1 for no FSDP.
        gpu: Whether to estimate for a GPU, where autocast's group norms and the optimizer take
            more memory than on the CPU.

    Raises:
        ValueError: A value is out of its range.
    """

    amp: bool = False
    grad_checkpointing: bool = False
    activation_recompute: bool = False
    optimizer: str = "sgd"
    processes: int = 1
    gpu: bool = True

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(
                f"optimizer must be one of {', '.join(OPTIMIZERS)}, got {self.optimizer!r}"
            )
        if self.processes < 1:
            raise ValueError(f"processes must be at least 1, got {self.processes}")


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes of tensors in one process, without the libraries' own memory such as CUDA's context.

    Attributes:
        parameters: Weights (with FSDP, this process's shard).
        optimizer: State of the optimizer.
        gradients: All gradients, at the end of backward.
        activations: Tensors that forward saves for backward.
        peak: The most bytes alive at once, temporaries included. It may be less than the sum of
            the others, because activations are freed while gradients are made.
    """

    parameters: int
    optimizer: int
    gradients: int
    activations: int
    peak: int


def training_memory(
    build: Callable[[], nn.Module],
    shape: tuple[int, int, int, int],
    options: TrainingOptions | None = None,
    step: Step | None = None,
) -> TrainingMemory:
    """Estimates the memory of a training step after the first one.

    Args:
        build: Makes the model, which holds a BitBackbone or another of our networks; nothing is
            allocated.
        shape: [N, C, H, W] of a process's images.
        options: How the step is computed.
        step: Maps model and images to a loss; None for the mean of a backbone's feature maps.

    Raises:
        ValueError: The shape is not positive, or FSDP is requested within a process group.
    """
    options = options or TrainingOptions()
    if min(shape) < 1:
        raise ValueError(f"images, channels, height and width must be at least 1, got {shape}")
    emulation = _group_norms_in_float32() if options.gpu and options.amp else nullcontext()
    model = partial(_Stepped, build, step or backbone_step)
    processes = _pretended_processes(options.processes)
    with processes as mesh, FakeTensorMode(), emulation, LiveBytes() as live:
        return _measure(model, shape, options, mesh, live)


class _Stepped(nn.Module):
    """A model with its loss; FSDP gathers the outermost weights in this forward."""

    def __init__(self, build: Callable[[], nn.Module], step: Step) -> None:
        super().__init__()
        self.model, self.step = build(), step

    def forward(self, images: Tensor) -> Tensor:
        return self.step(self.model, images)


def _measure(
    build: Callable[[], nn.Module],
    shape: tuple[int, ...],
    options: TrainingOptions,
    mesh: Any,
    live: LiveBytes,
) -> TrainingMemory:
    model = _prepared(build().train(), options, mesh)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    foreach = True if options.gpu else None  # the default on a GPU, with its temporaries
    optimizer = OPTIMIZERS[options.optimizer](trained, foreach=foreach)
    images = torch.empty(shape)
    for _ in range(2):  # the first step makes the optimizer's state
        optimizer.zero_grad()
        live.peak = before = live.now
        with torch.autocast("cpu", torch.bfloat16, enabled=options.amp):
            loss = model(images)
        activations = live.now - before
        loss.backward()
        optimizer.step()
        del loss
    state = [leaf for leaf in tree_leaves(optimizer.state) if isinstance(leaf, Tensor)]
    return TrainingMemory(
        _bytes(list(model.parameters())),
        _bytes(state),
        _bytes([parameter.grad for parameter in trained if parameter.grad is not None]),
        activations,
        live.peak,
    )


def _prepared(model: nn.Module, options: TrainingOptions, mesh: Any) -> nn.Module:
    from bit_backbone.network import BitNetwork
    from bit_backbone.training.parallel import shard

    for module in model.modules():
        if isinstance(module, BitNetwork):
            module.set_grad_checkpointing(options.grad_checkpointing)
            module.set_activation_recompute(options.activation_recompute)
    if mesh is None:
        return model
    return shard(model, mesh, torch.bfloat16 if options.amp else None)


def _bytes(tensors: list[Tensor]) -> int:
    local = [tensor.to_local() if hasattr(tensor, "to_local") else tensor for tensor in tensors]
    return sum(tensor.numel() * tensor.element_size() for tensor in local)


def backbone_step(model: nn.Module, images: Tensor) -> Tensor:
    """Returns the mean of a backbone's feature maps, as a loss."""
    return torch.stack([feature.float().mean() for feature in model(images).values()]).sum()


def detector_step(model: nn.Module, images: Tensor) -> Tensor:
    """Returns a loss of torchvision's Faster R-CNN with the largest number of proposals.

    The detector's own forward chooses proposals by their values, which fake tensors do not have.
    So this calls its backbone and heads on 512 boxes per image. It leaves out sampling and box
    coding, which need little memory.
    """
    from torchvision.ops import roi_align

    detector: Any = model
    levels = detector.backbone(images)
    scores, deltas = detector.rpn.head(list(levels.values()))
    boxes = images.new_zeros(PROPOSALS * len(images), 5)
    pooled = roi_align(levels["0"], boxes, POOLED, sampling_ratio=SAMPLES)
    found = detector.roi_heads.box_predictor(detector.roi_heads.box_head(pooled))
    return torch.stack([part.float().mean() for part in (*scores, *deltas, *found)]).sum()


@contextmanager
def _group_norms_in_float32() -> Iterator[None]:
    """Makes group norms run in float32, as autocast does on a GPU but not on the CPU.

    The function is replaced by name, because modes for torch functions are off during recompute.
    """
    original = torch.group_norm

    def group_norm(x: Tensor, groups: int, *rest: Any, **named: Any) -> Tensor:
        if torch.is_autocast_enabled("cpu"):
            x, rest = x.float(), tuple(a.float() if isinstance(a, Tensor) else a for a in rest)
        return original(x, groups, *rest, **named)

    torch.group_norm = group_norm  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.group_norm = original


@contextmanager
def _pretended_processes(count: int) -> Iterator[Any]:
    """Yields a mesh of ``count`` processes, of which only this one exists; None for one."""
    if count == 1:
        yield None
        return
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.testing._internal.distributed.fake_pg import FakeStore

    if dist.is_initialized():
        raise ValueError("an estimate for FSDP makes a process group of its own; one exists")
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=count)
    try:
        yield init_device_mesh("cpu", (count,))
    finally:
        dist.destroy_process_group()
