"""What every test shares: a fair share of the cores and a fixed seed."""

import os

import pytest


def pytest_configure() -> None:
    """Divide the cores among pytest-xdist's workers, which would each start a thread per core.

    It has to happen before torch is imported, and holds for the processes that tests start too.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if workers > 1:
        threads = max(1, (os.cpu_count() or 1) // workers)
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))


@pytest.fixture(autouse=True)
def seed() -> None:
    """Start every test from the same random state."""
    import torch

    torch.manual_seed(0)
