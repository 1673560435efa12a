"""Distributes a model over several processes: replicated (DDP) or sharded (FSDP2)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from bit_backbone.network import PreActUnit, Stage
from bit_backbone.utils.processes import ProcessGroup


def distribute(
    model: nn.Module, group: ProcessGroup, *, fsdp: bool = False, dtype: torch.dtype | None = None
) -> nn.Module:
    """Makes backward passes average gradients over the processes.

    On GPUs the batch norms of a segmenter's head share their statistics over all processes. CPUs
    have no such norm, so each process has its own statistics: see ``average_statistics``.

    Args:
        model: Any model that holds a BiT, on the process's device. FSDP changes it in place, so
            make the optimizer afterwards.
        group: The processes.
        fsdp: Shard parameters, gradients and the optimizer's state over the processes (FSDP2),
            instead of keeping all of them in each (DDP).
        dtype: With FSDP, the type in which residual units are gathered and computed; None for
            float32.

    Returns:
        The module to call forward on.

    Raises:
        ValueError: FSDP is requested without a process group.
    """
    if group.world_size > 1 and group.device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    if fsdp:
        return shard(model, process_mesh(group.device), dtype)
    if group.world_size == 1:
        return model
    # Not broadcast_buffers: it would discard the statistics of all processes except the first.
    return DistributedDataParallel(model, gradient_as_bucket_view=True, broadcast_buffers=False)


@torch.no_grad()
def average_statistics(model: nn.Module, group: ProcessGroup) -> None:
    """Gives the batch norms of every process the mean of all processes' running statistics.

    Call it before a model is saved or evaluated. A running statistic is a weighted sum over
    batches, with the same weights in every process. So one mean now equals a mean after every step,
    and training is not affected. The variance is the mean of the variances within the processes'
    shares, by which batches are normalised.

    Args:
        model: In every process, trained on equal shares of batches.
        group: The processes.
    """
    for module in model.modules():
        if isinstance(module, _BatchNorm) and not isinstance(module, nn.SyncBatchNorm):
            for statistic in (module.running_mean, module.running_var):
                if statistic is not None:
                    group.sum(statistic).div_(group.world_size)


def process_mesh(device: torch.device) -> DeviceMesh:
    """Returns the one-dimensional mesh of all processes, for FSDP.

    Raises:
        ValueError: There is no process group.
    """
    if not torch.distributed.is_initialized():
        raise ValueError(
            "FSDP divides the model among the processes of a run; start them with: torchrun "
            "--nproc-per-node N"
        )
    return init_device_mesh(device.type, (torch.distributed.get_world_size(),))


def shard(model: nn.Module, mesh: DeviceMesh, dtype: torch.dtype | None = None) -> nn.Module:
    """Applies ``fully_shard`` to every residual unit of every BiT in a model, then to the rest.

    A unit's weights are gathered when it runs, and freed afterwards. Gradients are reduced in at
    least float32. All other layers compute in float32, or in autocast's type.
    """
    policy = MixedPrecisionPolicy(dtype, reduce_dtype=None if dtype is None else torch.float32)
    for module in _units(model):
        fully_shard(module, mesh=mesh, mp_policy=policy)
    # Without cast_forward_inputs, which would round boxes and pixels.
    rest = MixedPrecisionPolicy(cast_forward_inputs=False)
    fully_shard(model, mesh=mesh, mp_policy=rest)
    return model


@contextmanager
def without_sync(network: nn.Module) -> Iterator[None]:
    """Backward passes inside only add up gradients; the next one outside averages them."""
    if isinstance(network, DistributedDataParallel):
        with network.no_sync():
            yield
    elif isinstance(network, FSDPModule):
        network.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            network.set_requires_gradient_sync(True)
    else:
        yield


def _units(model: nn.Module) -> Iterator[nn.Module]:
    """Yields the modules that are sharded separately, inner modules first."""
    for stage in model.modules():
        if isinstance(stage, Stage):
            # A stage's first norm is also applied from outside, by ``Stage.enter``.
            if isinstance(stage[0], PreActUnit):
                yield stage[0].norm1
            yield from stage
