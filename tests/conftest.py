"""What every test shares: one thread per process and a fixed seed."""

import os

import pytest

# Before torch is imported. The tests' networks are tiny, and the threads of pytest-xdist's workers
# would spin for the same cores; processes that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def seed() -> None:
    """Start every test from the same random state."""
    import torch

    torch.manual_seed(0)
