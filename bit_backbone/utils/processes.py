"""The processes of a data-parallel run, and the signals that end it cleanly."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class ProcessGroup:
    """This process among those of the run.

    Attributes:
        rank: Number of this process; process 0 writes files and shows progress.
        world_size: Number of processes.
        device: The device of this process.
    """

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Sums a tensor over all processes, in place."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def max(self, value: int) -> int:
        """Returns the largest of the processes' values."""
        if self.world_size == 1:
            return value
        values = torch.tensor(value, device=self.device)
        dist.all_reduce(values, dist.ReduceOp.MAX)
        return int(values)

    def gather(self, value: Any) -> list[Any]:
        """Returns the values of all processes, by rank; values must be picklable."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    @contextmanager
    def together(self) -> Iterator[None]:
        """Succeeds in all processes or in none: the first error is raised in all of them.

        Without it, the others would wait for a failed process.
        """
        error = None
        try:
            yield
        except Exception as own:
            error = own
        for first in (error, *self.gather(error)):
            if first is not None:
                raise first

    def barrier(self) -> None:
        """Waits until every process is here."""
        if self.world_size > 1:
            dist.barrier()


def is_first_process() -> bool:
    """Whether this process has rank 0 in torchrun's environment; True without torchrun."""
    return os.environ.get("RANK", "0") == "0"


ONE_PROCESS = ProcessGroup(0, 1, torch.device("cpu"))
"""A run of only this process, on the CPU."""


@contextmanager
def process_group(device: str | torch.device | None = None) -> Iterator[ProcessGroup]:
    """Joins the run that torchrun started, or makes a run of one process.

    A process group that exists already is used and left as it is.

    Args:
        device: Where to compute; None for this process's GPU, or the CPU if there is none.
    """
    if device is None:
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        device = f"cuda:{local_rank}" if torch.cuda.is_available() else "cpu"
    device = torch.device(device)
    joins = not dist.is_initialized() and int(os.environ.get("WORLD_SIZE", "1")) > 1
    if joins:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        if dist.is_initialized():
            yield ProcessGroup(dist.get_rank(), dist.get_world_size(), device)
        else:
            yield ProcessGroup(0, 1, device)
    finally:
        if joins:
            dist.destroy_process_group()


class Interruption:
    """Catches SIGINT and SIGTERM, so that a run can save before it ends.

    A second signal has its usual effect: Ctrl-C twice ends the run at once.

    Attributes:
        signal: The number of the signal that came, or 0.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._before: dict[int, object] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is not threading.main_thread():
            return self  # only the main thread receives signals
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self.__exit__()
