"""A model over several processes: replicated (DDP), or sharded (FSDP2)."""

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
    """Makes backward passes average gradients over the processes, from here on.

    On GPUs the batch norms of a segmenter's head take their statistics over all processes. On CPUs,
    which have no such norm, each process has its own: see ``average_statistics``.

    Args:
        model: Anything on a BiT, on the process's device. FSDP changes it in place, so make the
            optimizer afterwards.
        group: The processes.
        fsdp: Shard parameters, gradients and the optimizer's state over the processes (FSDP2),
            instead of keeping all of them in each (DDP).
        dtype: With FSDP, what residual units are gathered and computed in; None for float32.

    Returns:
        What to call forward on.

    Raises:
        ValueError: FSDP without a process group.
    """
    if group.world_size > 1 and group.device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    if fsdp:
        return shard(model, process_mesh(group.device), dtype)
    if group.world_size == 1:
        return model
    # Not broadcast_buffers, which throws away what the processes but the first have gathered.
    return DistributedDataParallel(model, gradient_as_bucket_view=True, broadcast_buffers=False)


@torch.no_grad()
def average_statistics(model: nn.Module, group: ProcessGroup) -> None:
    """Gives the batch norms of every process the mean of all processes' running statistics.

    To be called before a model is saved or evaluated. A running statistic is a sum of the batches'
    with weights that are the same in every process: one mean now is the mean after every step, and
    training continues as if nothing had happened. The variance is the mean of that within the
    processes' shares, which batches are normalised by.

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
    """Returns all processes in a row, as FSDP shards over them.

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

    A unit's weights are gathered when it runs, and freed after it. Gradients are reduced in
    float32 at least. Outside the units all is computed in float32, or what autocast makes of it.
    """
    policy = MixedPrecisionPolicy(dtype, reduce_dtype=None if dtype is None else torch.float32)
    for module in _units(model):
        fully_shard(module, mesh=mesh, mp_policy=policy)
    # not cast_forward_inputs: boxes and pixels stay as exact as they are
    rest = MixedPrecisionPolicy(cast_forward_inputs=False)
    fully_shard(model, mesh=mesh, mp_policy=rest)
    return model


@contextmanager
def without_sync(network: nn.Module) -> Iterator[None]:
    """Lets backward passes add up gradients, until one outside of this averages them."""
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
    """Yields what is sharded on its own, inner modules first."""
    for stage in model.modules():
        if isinstance(stage, Stage):
            # A stage's first norm is also applied from outside, by ``Stage.enter``.
            if isinstance(stage[0], PreActUnit):
                yield stage[0].norm1
            yield from stage
