"""Handles a lack of memory: the image is reported and skipped.

Libraries raise many exceptions when memory runs out. Here they become one ValueError, which callers
treat like the error of any other bad image.
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

# Messages of PyTorch's CPU allocator (c10/core/impl/alloc_cpu.cpp) on POSIX and Windows, of CUDA,
# and of the status codes of CUDA's libraries.
_MARKS = ("can't allocate memory", "not enough memory", "out of memory", "_STATUS_ALLOC_FAILED")
# PyTorch's messages for oneDNN's status "out of memory". Invalid arguments fail earlier, when
# oneDNN creates the primitive's descriptor.
_ONEDNN = (
    "could not create a memory object",
    "could not create a primitive",
    "could not execute a primitive",
)

_LOGGER = logging.getLogger(__name__)


class TooLargeError(ValueError):
    """An image or a batch does not fit into memory."""


class SharedMemoryError(ValueError):
    """The workers of a DataLoader have too little shared memory."""


# From torch/utils/data/_utils/signal_handling.py and torch's file_descriptor and file_system modes.
_SHARED = ("out of shared memory", "killed by signal: Bus error", "unable to mmap", "shm_open")


def is_out_of_shared_memory(error: BaseException) -> bool:
    """Whether an exception reports that a DataLoader's worker had too little shared memory."""
    said = f"{error} {error.__cause__}"  # the loader names the signal in the cause
    return isinstance(error, RuntimeError) and any(mark in said for mark in _SHARED)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception reports a lack of memory, on the CPU or a GPU."""
    if isinstance(error, MemoryError):  # of Python, NumPy and Pillow
        return True
    # torch's class is compared by name, so that the commands need not import torch.
    if type(error).__name__ == "OutOfMemoryError":
        return True
    said = str(error)
    is_marked = said in _ONEDNN or any(mark in said for mark in _MARKS)
    return isinstance(error, RuntimeError) and is_marked


def available_bytes() -> int | None:
    """Returns the memory that a process can still get, or None if the system does not report it."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    found = fields.get("MemAvailable")
    return None if found is None else int(found.split()[0]) * 1024


def reason(error: BaseException) -> str:
    """Returns the first line of an out-of-memory exception, which may be empty or very long."""
    return (str(error).strip() or "the allocator gives no details").splitlines()[0]


@contextmanager
def fitting(what: str) -> Iterator[None]:
    """Turns exceptions for a lack of memory into a TooLargeError.

    Args:
        what: What needs the memory, such as "an image of 480 x 640".

    Raises:
        TooLargeError: Replaces any exception that reports a lack of memory.
        SharedMemoryError: Replaces one about the shared memory of a DataLoader's workers.
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
    """Computes a batch at once or, if it does not fit into memory, item by item.

    Args:
        compute: Returns one result per item; raises TooLargeError if the items do not fit.
        items: The batch.
        failed: Returns the result for a single item that does not fit.
    """
    try:
        return compute(items)
    except TooLargeError as error:
        if len(items) == 1:
            return [failed(items[0], error)]
        _LOGGER.warning("%s; its images are computed one by one", error)
    # After the handler, because the exception keeps the frames and memory of the failed call.
    return [result for item in items for result in each_that_fits(compute, [item], failed)]
