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


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """A folder with three small images of different sizes, of noise: no two places are equal.

    In the even sky of a photograph an untrained detector has many equal scores.
    """
    import numpy as np
    from PIL import Image

    folder = tmp_path_factory.mktemp("images")
    for name, (height, width) in {"a": (97, 131), "b": (200, 150), "c": (113, 113)}.items():
        noise = np.random.default_rng(ord(name)).integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(noise).save(folder / f"{name}.png")
    return folder
