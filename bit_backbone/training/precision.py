"""Mixed precision: float32 weights, forward passes under autocast."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch

DTYPES = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Returns the context for forward passes in a precision of ``DTYPES``."""
    dtype = DTYPES[precision]
    return torch.autocast(device.type, dtype, enabled=dtype is not None)
