"""What happens when the memory runs out: the image is reported and skipped.

A lack of memory has many kinds of exception. Here they become one, a ValueError, which callers
treat like that of any other bad image.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from bit_backbone.utils.ways_out import after, passing

__all__ = [
    "SharedMemoryError",
    "TooLargeError",
    "each_that_fits",
    "fitting",
    "is_out_of_memory",
]

Item = TypeVar("Item")
Result = TypeVar("Result")

# Of PyTorch's allocator for the CPU (c10/core/impl/alloc_cpu.cpp) on POSIX and on Windows, of CUDA
# and of its libraries' status codes.
_MARKS = ("can't allocate memory", "not enough memory", "out of memory", "_STATUS_ALLOC_FAILED")
# What is left of oneDNN's status "out of memory" in PyTorch's exception. Arguments that it rejects
# fail earlier, when it creates the primitive's descriptor.
_ONEDNN = (
    "could not create a memory object",
    "could not create a primitive",
    "could not execute a primitive",
)

_LOGGER = logging.getLogger(__name__)


class TooLargeError(ValueError):
    """An image or a batch does not fit into memory."""


class SharedMemoryError(ValueError):
    """Workers of a DataLoader have too little shared memory."""


# Of torch/utils/data/_utils/signal_handling.py and torch's file_descriptor and file_system sharing.
_SHARED = ("out of shared memory", "killed by signal: Bus error", "unable to mmap", "shm_open")


def is_out_of_shared_memory(error: BaseException) -> bool:
    """Whether an exception says that a DataLoader's worker had too little shared memory."""
    said = f"{error} {error.__cause__}"  # the loader names the signal in the cause
    return isinstance(error, RuntimeError) and any(mark in said for mark in _SHARED)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory could not be had, on the CPU or a GPU."""
    if isinstance(error, MemoryError):  # of Python, NumPy and Pillow
        return True
    # A subclass of RuntimeError; by its name, so that the commands need not import torch.
    if type(error).__name__ == "OutOfMemoryError":
        return True
    said = str(error)
    is_marked = said in _ONEDNN or any(mark in said for mark in _MARKS)
    return isinstance(error, RuntimeError) and is_marked


def available_bytes() -> int | None:
    """Returns how much memory a process can still have, or None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    found = fields.get("MemAvailable")
    return None if found is None else int(found.split()[0]) * 1024


def reason(error: BaseException) -> str:
    """Returns the first line of such an exception, which may have none or pages."""
    return (str(error).strip() or "the allocator says no more").splitlines()[0]


@contextmanager
def fitting(what: str) -> Iterator[None]:
    """Makes a lack of memory a TooLargeError.

    Args:
        what: Needs the memory: "an image of 480 x 640".

    Raises:
        TooLargeError: In place of any exception that says so.
        SharedMemoryError: In place of one about the shared memory of a DataLoader's workers.
    """
    try:
        yield
    except Exception as error:
        if is_out_of_shared_memory(error):
            raise SharedMemoryError(
                "the processes that read images ran out of shared memory (/dev/shm): give the "
                "container more, for example by docker run --shm-size=8g"
                + after(", or ", passing("workers", 0))
            ) from error
        if not is_out_of_memory(error):
            raise
        raise TooLargeError(f"{what} does not fit into memory: {reason(error)}") from error


def each_that_fits(
    compute: Callable[[Sequence[Item]], list[Result]],
    items: Sequence[Item],
    failed: Callable[[Item, TooLargeError], Result],
) -> list[Result]:
    """Computes a batch at once or, where it does not fit into memory, item by item.

    Args:
        compute: Returns a result for each; raises TooLargeError where they do not fit.
        items: The batch.
        failed: Returns what stands for an item that does not fit by itself.
    """
    try:
        return compute(items)
    except TooLargeError as error:
        if len(items) == 1:
            return [failed(items[0], error)]
        _LOGGER.warning("%s; its images are computed one by one", error)
    # After the handler: the exception holds the frames, and they the memory, of what failed.
    return [result for item in items for result in each_that_fits(compute, [item], failed)]
